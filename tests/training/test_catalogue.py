"""The table of systems: classes and options exist, and a +w row differs from the plain row only in its weights."""

import dataclasses
import subprocess
import sys

import pytest

from accel import models
from accel.evaluation.tables import TABLE1, TABLE2
from accel.training import TrainingConfig
from accel.training.catalogue import SYSTEMS
from accel.training.systems import AutoencoderSystem, System, model_class, trainer_class

OPTIONS = {field.name for field in dataclasses.fields(TrainingConfig)}


def test_the_table_has_the_paper_s_rows():
    assert {row.options["system"] for table in (TABLE1, TABLE2) for row in table.rows} == SYSTEMS.keys()


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_a_row_names_exists(name):
    row = SYSTEMS[name]
    assert row.name == name
    assert issubclass(trainer_class(name), System)
    assert model_class(name) is getattr(models, row.model)
    assert row.without_effect < OPTIONS
    assert TrainingConfig(system=name).weighted == row.weighted


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name.endswith("+w")])
def test_a_weighted_row_is_its_plain_one_but_for_the_weights(name):
    plain = SYSTEMS[name.removesuffix("+w")]
    assert SYSTEMS[name] == dataclasses.replace(plain, name=name, weighted=True)


def test_no_option_is_without_effect_everywhere():
    assert not frozenset.intersection(*(row.without_effect for row in SYSTEMS.values()))


@pytest.mark.parametrize("name", SYSTEMS)
def test_only_what_has_an_evidence_bound_weighs_its_terms(name):
    weighs = issubclass(trainer_class(name), AutoencoderSystem)
    assert ("beta_app" not in SYSTEMS[name].without_effect) == weighs
    assert weighs or not SYSTEMS[name].weighted


def test_the_table_needs_no_torch():
    check = "import accel.training.catalogue, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
