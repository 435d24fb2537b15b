"""The declaration of the bottleneck agrees with the specification, is one line of text, and is in every signature."""

import dataclasses
import inspect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from accel import BottleneckOptions, PatchVAE
from accel.common.bottleneck import declare, takes_bottleneck_options
from accel.ops import patch_bottleneck, pooled_patch_bottleneck
from accel.training import TrainingConfig
from reference.bottleneck import VARIANCE_RULES
from reference.occurrence import DISTRIBUTIONS

FIELDS = [field.name for field in dataclasses.fields(BottleneckOptions)]


def test_the_specification_declares_the_same():
    ours, theirs = BottleneckOptions(), reference.BottleneckOptions()
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    choices = {field.name: field.metadata["choices"] for field in dataclasses.fields(BottleneckOptions)}
    assert choices["variance"] == VARIANCE_RULES
    assert choices["occurrence"] == tuple(DISTRIBUTIONS)


@pytest.mark.parametrize("occurrence", DISTRIBUTIONS)
@pytest.mark.parametrize("parts", [1, 2, 3, 16, 64])
def test_the_specification_has_the_same_default_prior(occurrence, parts):
    ours = BottleneckOptions(occurrence=occurrence).of_parts(parts)
    assert ours.occurrence_prior == reference.BottleneckOptions(occurrence=occurrence).prior(parts)


valid = st.builds(
    BottleneckOptions,
    variance=st.sampled_from(VARIANCE_RULES),
    occurrence=st.sampled_from(list(DISTRIBUTIONS)),
    occurrence_prior=st.none() | st.floats(1e-9, 1 - 1e-9),
    appearance_prior_mean=st.floats(-1e6, 1e6),
    straight_through=st.booleans(),
    detach_weights=st.booleans(),
)


@given(valid)
def test_text_and_back(options):
    assert "\n" not in options.text
    assert BottleneckOptions.from_text(options.text) == options


@given(valid, st.integers(1, 100))
def test_a_prior_leaves_something_for_none(options, parts):
    prior = options.occurrence_prior
    if options.occurrence == "categorical" and prior is not None and prior >= 1 / parts:
        with pytest.raises(ValueError, match="must be below 1/N"):
            options.of_parts(parts)
        return
    filled = options.of_parts(parts)
    if prior is not None:
        assert filled.occurrence_prior == prior
    assert 0 < filled.occurrence_prior * (parts if options.occurrence == "categorical" else 1) < 1
    assert dataclasses.replace(filled, occurrence_prior=prior) == options
    assert filled.of_parts(parts) == filled


@pytest.mark.parametrize("function", [patch_bottleneck, pooled_patch_bottleneck, PatchVAE])
def test_signatures_list_every_option_with_its_default(function):
    parameters = inspect.signature(function).parameters
    for name, default in dataclasses.asdict(BottleneckOptions()).items():
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == default
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def test_only_functions_that_take_options_can_list_them():
    with pytest.raises(TypeError, match="takes no"):
        takes_bottleneck_options(lambda x: x)


def test_a_run_has_the_same_options_with_the_same_defaults():
    config = TrainingConfig(data="images.npz")
    assert {name: getattr(config, name) for name in FIELDS} == dataclasses.asdict(BottleneckOptions())


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"variance": "median"}, ValueError, "f: variance must be one of geometric, arithmetic, got 'median'"),
        ({"occurrence_prior": [0.1]}, ValueError, r"f: occurrence_prior must be a number, got \[0.1\]"),
        ({"occurrence_prior": True}, ValueError, "f: occurrence_prior must be a number, got True"),
        ({"detach_weights": "false"}, ValueError, "f: detach_weights must be true or false, got 'false'"),
        ({"detach_weight": True}, TypeError, r"f\(\) has no argument 'detach_weight', the nearest is 'detach_weights'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, error, sentence):
    with pytest.raises(error, match=sentence):
        declare("f", 3, options)


def test_equal_values_of_other_types_are_not_taken_for_each_other():
    """1 == True, and earlier declarations are cached."""
    for first, second in itertools.permutations([True, 1]):
        for value in (first, second):
            if value is True:
                assert declare("f", 2, {"straight_through": value}).straight_through is True
            else:
                with pytest.raises(ValueError, match="straight_through must be true or false, got 1"):
                    declare("f", 2, {"straight_through": value})
