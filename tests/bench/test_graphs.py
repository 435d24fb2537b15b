"""Timing in CUDA graphs, with a mock of CUDA that is as strict about streams as CUDA."""

import contextlib
import time
from types import SimpleNamespace

import pytest
import torch

from bench import weighted_loss
from bench.common import harness, timing

FORMAT = torch.contiguous_format


class StandIn:
    """Replaces torch.cuda in the benchmarks. A graph stores the calls of its capture, and a replay repeats them.

    failure: exception that a capture raises at its end, or None; as in torch.cuda.graph, its stream then stays current.
    """

    def __init__(self, failure=None):
        self.failure, self.current, self.capturing, self.replays = failure, "default", False, 0
        self.uses = []  # of leaves: (the stream, whether it was capturing)
        self.Stream = lambda: SimpleNamespace(name="side", wait_stream=lambda other: None)
        self.current_stream = lambda: SimpleNamespace(name=self.current, wait_stream=lambda other: None)
        self.set_stream = lambda stream: setattr(self, "current", stream.name)
        self.CUDAGraph = lambda: SimpleNamespace(replay=self.replay)
        self.memory_allocated = self.max_memory_allocated = lambda: 0
        self.synchronize = self.reset_peak_memory_stats = lambda: None

    def Event(self, enable_timing):
        event = SimpleNamespace(time=None)
        event.record = lambda: setattr(event, "time", time.perf_counter())
        event.elapsed_time = lambda end: 1e3 * (end.time - event.time)
        return event

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, "side"
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        before, self.current, self.capturing = self.current, "side", True
        try:
            yield
        finally:
            self.capturing = False
        if self.failure:
            raise self.failure
        self.current = before

    def replay(self):
        self.replays += 1

    def use(self, leaf):
        """Autograd's node of a leaf stays on the stream that first used it while anything recorded is alive."""
        node = leaf.view_as(leaf).grad_fn.next_functions[0][0]
        stream = node.metadata.setdefault("stream", self.current)
        self.uses.append((self.current, self.capturing))
        if self.capturing and stream != self.current:
            raise RuntimeError("operation not permitted when stream is capturing")


def pretend(monkeypatch, failure=None):
    cuda = StandIn(failure)
    monkeypatch.setattr(torch, "cuda", cuda)
    for module in (timing, harness):
        monkeypatch.setattr(module, "CUDA", True)
    return cuda


def row(cuda, size=16):
    """A row for our loss; each of its passes reports its leaves to the stand-in."""
    case = weighted_loss.make_case((2, size), torch.float32, FORMAT)
    ours = next(weighted_loss.make_providers(case, False, False))

    def run(leaves):
        outputs = ours.run(leaves)
        for leaf in leaves:
            if leaf.requires_grad:
                cuda.use(leaf)
        return outputs

    return harness.measure(case, harness.Provider("ours", run, run), 1e9, 0.0)


def test_the_stand_in_refuses_a_leaf_whose_graph_of_another_stream_is_alive(monkeypatch):
    cuda = pretend(monkeypatch)
    leaf = torch.ones(2, requires_grad=True)
    recorded = leaf * 2
    cuda.use(leaf)
    with pytest.raises(RuntimeError, match="not permitted"), cuda.graph(None, None, None):
        cuda.use(leaf)
    del recorded


@pytest.mark.parametrize("limit_in_milliseconds", [0.001, 1000.0])
def test_shapes_of_every_size_are_timed_in_a_graph(monkeypatch, limit_in_milliseconds):
    cuda = pretend(monkeypatch)
    case = weighted_loss.make_case((2, 16), torch.float32, FORMAT)
    provider = next(weighted_loss.make_providers(case, False, False))
    sets = [case.inputs(seed) for seed in range(2)]
    bandwidth = 1e3 * (case.forward_bytes + case.backward_bytes) / limit_in_milliseconds
    times = harness.timings(case, provider, sets, bandwidth, 0.0)
    assert times["limit"] == pytest.approx(limit_in_milliseconds)
    assert len(times["graph"]) == 3
    assert cuda.replays > 0


def test_eager_timings_do_not_spoil_the_capture(monkeypatch):
    cuda = pretend(monkeypatch)
    measured = row(cuda)
    assert "failure" not in measured
    assert measured["graph"] is not None, measured
    assert "no_graph_because" not in measured
    captured = cuda.uses.count(("side", True))
    assert captured > 0
    assert cuda.uses.count(("side", False)) == timing.WARM_UP * captured


def test_a_failed_capture_is_a_fact_of_its_row_and_no_failure(monkeypatch):
    cuda = pretend(monkeypatch, RuntimeError("CUDA error: operation failed\nmore"))
    measured = row(cuda)
    assert "failure" not in measured
    assert measured["graph"] is None
    assert measured["no_graph_because"] == "RuntimeError: CUDA error: operation failed"
    assert measured["both"][0] > 0
    assert measured["of_copy"] > 0
    assert "none" in harness.describe(measured)
    assert cuda.current == "default"


def test_a_row_without_a_gpu_says_that_it_was_in_no_graph():
    case = weighted_loss.make_case((2, 16), torch.float32, FORMAT)
    measured = harness.measure(case, next(weighted_loss.make_providers(case, False, False)), 1e9, 0.0)
    if not timing.CUDA:
        assert (measured["graph"], measured["no_graph_because"]) == (None, "a graph needs a GPU")
