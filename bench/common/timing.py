"""Timing on the present device: events, many calls, quantiles; CUDA graphs; the bandwidth of a large copy."""

import gc
import time
from collections.abc import Callable

import numpy as np
import torch

from accel.training.capture import WARM_UP

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def synchronise():
    if CUDA:
        torch.cuda.synchronize()


def quantiles(values):
    """Median, 20 % and 80 % quantile."""
    return [float(x) for x in np.quantile(values, (0.5, 0.2, 0.8))]


def time_calls(calls: list[Callable[[], object]], budget: float):
    """Quantiles of one call in milliseconds; the calls take turns, for about budget seconds."""
    for call in calls[:3]:
        call()
    durations, began = [], time.perf_counter()
    if not CUDA:
        while len(durations) < 5 or time.perf_counter() - began < budget:
            start = time.perf_counter()
            calls[len(durations) % len(calls)]()
            durations.append(1e3 * (time.perf_counter() - start))
        return quantiles(durations)
    torch.cuda.synchronize()
    events = []
    while len(events) < 20 or time.perf_counter() - began < budget:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        calls[len(events) % len(calls)]()
        end.record()
        events.append((start, end))
        if len(events) % 20 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return quantiles([start.elapsed_time(end) for start, end in events])


def time_in_graph(make_calls: Callable[[], list[Callable[[], object]]], budget: float):
    """(quantiles of one call in milliseconds where all the calls are one CUDA graph, None), or (None, why not).

    make_calls makes the calls on the stream of the capture, with separate leaves: autograd binds a leaf's node to the
    stream that first uses it, and a capture that waits for another stream fails.
    """
    if not CUDA:
        return None, "a graph needs a GPU"
    gc.collect()
    current, stream, graph = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(current)
    try:
        with torch.cuda.stream(stream):
            calls = make_calls()
            for call in calls * WARM_UP:
                call()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            kept = [call() for call in calls]  # or all of them would write to one place, which may stay in the cache
        current.wait_stream(stream)
        times = time_calls([graph.replay], budget)
        del kept
    except Exception as error:  # whatever a capture does not permit
        torch.cuda.set_stream(current)  # torch.cuda.graph leaves its own where it cannot end the capture
        return None, first_line(error)
    return [x / len(calls) for x in times], None


def copy_bandwidth():
    """Bytes a second, read and written, of a large copy on this device now."""
    source = torch.empty(2**28 if CUDA else 2**25, dtype=torch.float32, device=DEVICE).normal_()
    target = torch.empty_like(source)
    median, _, _ = time_calls([lambda: target.copy_(source)], 0.5)
    return 2 * source.nbytes / (1e-3 * median)


def matrix_speed():
    """Operations a second of a large matrix product in the precision of a training step."""
    size, dtype = (8192, torch.bfloat16) if CUDA else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * size**3 / (1e-3 * time_calls([lambda: a @ b], 0.5)[0])
