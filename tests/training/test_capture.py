"""Use of a CUDA graph, with a mock of CUDA; test_fast.py tests the graph itself, on a GPU."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from accel.training import capture


class StandIn:
    """Replaces the parts of torch.cuda that `Captured` uses: nothing runs inside `graph`, and a replay runs it."""

    def __init__(self, function, failure=None):
        self.function, self.failure = function, failure
        self.capturing, self.done, self.replays = False, [], 0
        self.current = outside = SimpleNamespace(wait_stream=lambda other: None)
        self.Stream = lambda device: SimpleNamespace(wait_stream=lambda other: None)
        self.current_stream = lambda device: self.current
        self.outside = outside
        self.stream = lambda stream: contextlib.nullcontext()
        self.CUDAGraph = lambda: SimpleNamespace(replay=self.replay)

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False
            if self.failure:
                self.current = stream  # as torch.cuda.graph leaves it when a capture cannot end
                raise self.failure

    def set_stream(self, stream):
        self.current = stream

    def call(self, *arguments):
        if self.capturing:
            self.arguments = arguments
        else:
            self.done.append(self.function(*arguments))

    def replay(self):
        self.replays += 1
        self.done.append(self.function(*self.arguments))


def captured(monkeypatch, failure=None):
    cuda = StandIn(
        lambda images, labels: (images.sum().item(), None if labels is None else labels.sum().item()), failure
    )
    monkeypatch.setattr(capture.torch, "cuda", cuda)
    return capture.Captured(cuda.call, torch.device("cpu")), cuda


@pytest.mark.parametrize("labelled", [False, True])
def test_every_call_does_its_work_once_on_its_own_batch(monkeypatch, labelled):
    run, cuda = captured(monkeypatch)
    for number in range(10):
        run(torch.full((2, 3), number), torch.full((2,), 10 * number) if labelled else None)
    assert cuda.done == [(6 * number, 20 * number if labelled else None) for number in range(10)]
    assert cuda.replays == 10 - capture.WARM_UP


def test_other_shapes_run_without_the_graph(monkeypatch):
    run, cuda = captured(monkeypatch)
    for number in range(6):
        run(torch.full((2,), number), None)
        run(torch.full((1,), number), None)
    assert [total for total, _ in cuda.done] == [total for number in range(6) for total in (2 * number, number)]
    assert cuda.replays == 6 - capture.WARM_UP


def test_failed_capture_is_said_once_and_loses_no_step(monkeypatch, capsys):
    run, cuda = captured(monkeypatch, RuntimeError("CUDA error: not permitted\nmore"))
    for number in range(7):
        run(torch.full((1,), number), None)
    assert [total for total, _ in cuda.done] == list(range(7))
    assert cuda.current is cuda.outside
    err = capsys.readouterr().err
    assert err == "patchvae: warning: training continues without a CUDA graph: CUDA error: not permitted\n"


def test_a_failed_capture_tells_what_broke_it_rather_than_that_it_could_not_end(monkeypatch, capsys):
    run, cuda = captured(monkeypatch, RuntimeError("the capture has become invalid"))
    images = torch.ones(2)
    for _ in range(capture.WARM_UP):
        run(images, None)

    def read_a_value(*_):
        if cuda.capturing:
            raise RuntimeError("not permitted while a stream is captured")

    run.function = read_a_value
    run(images, None)
    assert "CUDA graph: not permitted while" in capsys.readouterr().err


def test_replaced_tensors_are_captured_anew(monkeypatch):
    run, cuda = captured(monkeypatch)
    for number in range(5):
        run(torch.full((1,), number), None)
    run.begin_again()
    for number in range(5):
        run(torch.full((3,), number), None)
    assert cuda.replays == 2 * (5 - capture.WARM_UP)
    assert [total for total, _ in cuda.done] == [*range(5), *(3 * number for number in range(5))]
