"""The operator benchmarks compare equal computations, and detect wrong or failing implementations."""

import pickle

import pytest
import torch

from bench import bottleneck, weighted_loss
from bench.common import harness

FORMATS = torch.contiguous_format, torch.channels_last
DTYPES = torch.float32, torch.bfloat16
PLAIN = torch.float32, torch.contiguous_format, bottleneck.KINDS[0]


def cases():
    for dtype in DTYPES:
        for memory_format in FORMATS:
            for kind in bottleneck.KINDS:
                case = bottleneck.make_case((2, 4, 3, 4), dtype, memory_format, kind)
                yield case, list(bottleneck.make_providers(case, True, False))
            case = weighted_loss.make_case((2, 16), dtype, memory_format)
            yield case, list(weighted_loss.make_providers(case, True, False))


@pytest.mark.parametrize(
    ("case", "provider"), [pytest.param(c, p, id=f"{c.label} {p.name}") for c, ps in cases() for p in ps]
)
def test_every_provider_computes_what_the_reference_does(case, provider):
    harness.check(case, provider)


def test_a_provider_that_is_wrong_fails():
    case = weighted_loss.make_case((2, 16), torch.float32, torch.contiguous_format)

    def wrong(leaves):
        return [1.01 * ((leaves[0] - leaves[1]) ** 2).sum((1, 2, 3))]

    row = harness.measure(case, harness.Provider("wrong", wrong, wrong), 1e9, 0.0)
    assert "differs from the reference" in row["failure"]
    assert "FAIL" in harness.describe(row)


def test_bytes_are_counted_as_the_mathematics_must_move_them():
    # At 3.0 TB/s: B 128, N 64, D 16, 28 × 28 in float32 under the arithmetic rule 0.984 ms; 224 px, B 256 0.257 ms.
    case = bottleneck.make_case((128, 64, 16, 28), torch.float32, torch.contiguous_format, ("arithmetic", "bernoulli"))
    assert (case.forward_bytes + case.backward_bytes) / 3.0e12 == pytest.approx(0.984e-3, rel=0.01)
    case = weighted_loss.make_case((256, 224), torch.float32, torch.contiguous_format)
    assert (case.forward_bytes + case.backward_bytes) / 3.0e12 == pytest.approx(0.257e-3, rel=0.01)


def test_needed_memory_is_the_inputs_the_outputs_and_the_gradients_of_both():
    case = bottleneck.make_case((8, 4, 3, 16), torch.float32, torch.contiguous_format, ("geometric", "bernoulli"))
    provider = next(bottleneck.make_providers(case, False, False))
    logits, maps, numbers = (4 * 8 * size for size in (4 * 256, 12 * 256, 12))
    # a and its gradient; μ, s, the code and their gradients; m and v; divergences and theirs are a few numbers.
    expected = 2 * logits + 6 * maps + 2 * numbers
    needed = 1e6 * harness.memory(case, provider, case.inputs(0))["needed_megabytes"]
    assert expected <= needed < expected + 200


def test_each_pass_of_a_kernel_is_timed_alone(monkeypatch):
    blocks = pytest.importorskip("bench.blocks")
    done = []

    def time_once(make_calls, budget):
        done.append([call() for call in make_calls()])
        return [1.0, 1.0, 1.0], None

    monkeypatch.setattr(blocks, "time_in_graph", time_once)
    row = blocks.measure("bottleneck", ((2, 4, 3, 4), *PLAIN), ((4, 4, 8), 1), bandwidth=1e6)
    forward, backward, both = (calls[0] for calls in done)
    assert [x.shape for x in forward] == [x.shape for x in both[0]]
    assert [x.shape for x in backward] == [x.shape for x in both[1]]
    assert not any(x.requires_grad for x in forward)
    assert row["tiles"] == [[4, 8, 1], [4, 8, 1]]
    assert row["of_both"] == pytest.approx(row["of_forward"] + row["of_backward"])
    monkeypatch.setattr(blocks, "time_in_graph", lambda *_: (None, "no graph"))
    assert "no graph" in blocks.describe(blocks.measure("weighted_loss", ((2, 16), *PLAIN[:2]), None, 1e6))


def test_other_tiles_differ_from_the_tables_and_are_no_larger_than_registers():
    blocks = pytest.importorskip("bench.blocks")
    tile = blocks.table_tile((128, 64, 16, 28), torch.bfloat16, torch.contiguous_format)
    others = list(blocks.neighbours(*tile, 256))
    assert len(set(others)) == len(others) > 3
    for (parts, numbers, cells), warps in others:
        assert cells <= 256
        assert 8 <= parts * numbers * cells / (32 * warps) <= 128


def test_rows_of_tiles_reach_other_processes_and_are_no_row_twice():
    blocks = pytest.importorskip("bench.blocks")
    for quick in (True, False):
        rows = list(blocks.measurements(quick))
        assert pickle.loads(pickle.dumps(rows)) == rows
        assert len({*rows}) == len(rows)
