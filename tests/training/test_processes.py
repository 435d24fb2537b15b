"""Several processes with a share of each batch give the result of one process with all of it."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing, nn

from accel.training import checkpoint, processes, train
from accel.training.loop import open_run
from tests.support import assert_close
from tests.training.tiny import STEPS, metrics, tiny_config, tiny_dataset

ROOT = Path(__file__).parents[2]
COUNT = 2


# Options whose loss is no mean over images: the information is one about the use of parts in the whole batch.
IDENTITY = {"occurrence": "categorical", "beta_identity": 0.25, "beta_occ": 5.0}


def first_steps(out, **options):
    """The results of some steps: gradients, buffers and the means of the loss."""
    run = open_run(tiny_config(out, **options), tiny_dataset())
    results = {"gradients": [], "statistics": [], "means": []}
    for batch in run.batches.epoch(0):
        run.step.ledger.reset()
        run.step(*batch)
        results["gradients"].append({name: p.grad.clone() for name, p in run.model.named_parameters()})
        results["statistics"].append({name: b.clone() for name, b in run.model.named_buffers()})
        results["means"].append(run.step.ledger.means())
    if processes.rank() == processes.count() - 1:
        run.step.ledger.add(dict.fromkeys(run.system.terms, torch.tensor(torch.nan)), 1, 17)
    results["problem"] = run.step.ledger.problem()
    return results


def norm_by_itself():
    """Output and gradients of a synchronised batch norm on this process's share of 6 images with large means."""
    generator = torch.Generator().manual_seed(0)
    images, incoming = (torch.randn(6, 3, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    images = 100 + images * torch.arange(1, 7).view(6, 1, 1, 1)
    share = slice(processes.rank() * 6 // processes.count(), (processes.rank() + 1) * 6 // processes.count())
    norm = nn.Sequential(nn.BatchNorm2d(3).double())
    nn.init.normal_(norm[0].weight, generator=generator)
    processes.synchronise_batch_norm(norm)
    x = images[share].requires_grad_()
    y = norm(x)
    y.backward(incoming[share])
    sums = processes.total(torch.stack([norm[0].weight.grad, norm[0].bias.grad]))
    return {"y": y.detach(), "d_x": x.grad, "d_parameters": sums, **norm[0].state_dict()}


def copied_from_first():
    """The states of a network and its Adam that differ between processes until they are copied from the first."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(3))
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 2, 4, 4)).sum().backward()
    optimiser.step()
    moments = [moment for state in optimiser.state.values() for moment in state.values()]
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers(), *moments):
            tensor.fill_(1 + processes.rank())
    processes.copy_from_first(network, optimiser)
    return network.state_dict() | {f"moment {number}": moment for number, moment in enumerate(moments)}


def worker(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=COUNT)
    torch.library.opcheck(processes.sum_over_processes, (torch.randn(3, requires_grad=True),))
    results = [first_steps(folder / "run"), norm_by_itself(), first_steps(folder / "identity", **IDENTITY)]
    torch.save(results, folder / f"{rank}.pt")
    torch.save(copied_from_first(), folder / f"copied-{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """(results of the processes, results of a single process, copied networks of the processes)"""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(worker, (folder,), COUNT)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]
    copied = [torch.load(folder / f"copied-{rank}.pt") for rank in range(COUNT)]
    alone = [first_steps(folder / "alone"), norm_by_itself(), first_steps(folder / "one identity", **IDENTITY)]
    return found, alone, copied


RUNS = pytest.mark.parametrize("run", [0, 2], ids=["default", "identity"])


@RUNS
def test_gradients_of_two_halves_are_those_of_the_whole(together, run):
    found, alone, _ = together
    found, alone = [results[run] for results in found], alone[run]
    for rank in range(COUNT):
        for step, (got, expected) in enumerate(zip(found[rank]["gradients"], alone["gradients"], strict=True)):
            for name, gradient in expected.items():
                # Sums in another order, then Adam's first steps, as long for a gradient of roundoff as for any other.
                assert_close(f"{name} step {step}", got[name], gradient, relative=1e-4 if step == 0 else 2e-2)
            assert all(torch.equal(gradient, found[0]["gradients"][step][name]) for name, gradient in got.items())


@RUNS
def test_statistics_and_losses_are_those_of_the_whole(together, run):
    found, alone, _ = together
    found, alone = [results[run] for results in found], alone[run]
    for rank in range(COUNT):
        for got, expected in zip(found[rank]["statistics"], alone["statistics"], strict=True):
            for name, statistic in expected.items():
                assert_close(name, got[name], statistic, relative=1e-3)
        for got, expected in zip(found[rank]["means"], alone["means"], strict=True):
            assert got == pytest.approx(expected, rel=1e-4)
        assert found[rank]["means"] == found[0]["means"]


def test_what_is_not_finite_in_one_process_stops_all(together):
    assert [results["problem"] for results, *_ in together[0]] == [(17, "reconstruction")] * COUNT


def test_batch_norm_is_that_of_all_images(together):
    found, (_, alone, _), _ = together
    for name in ("y", "d_x"):
        assert_close(name, torch.cat([results[name] for _, results, _ in found]), alone[name], relative=1e-12)
    for _, results, _ in found:
        for name in ("d_parameters", "running_mean", "running_var", "num_batches_tracked"):
            assert_close(name, results[name], alone[name], relative=1e-12)


def test_networks_and_moments_are_copied_from_the_first_process(together):
    for state in together[2]:
        assert len(state) == 2 + 5 + 4 * 3
        assert all((tensor == 1).all() for tensor in state.values())


@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_for_prepared_images_waits_for_days(monkeypatch, rank):
    """The wait uses a separate group on the host with its own timeout; the default group's, on GPUs, is ten minutes."""
    events = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: rank)

    def new_group(backend, timeout):
        assert backend == "gloo"
        assert timeout >= datetime.timedelta(days=1)
        return "patient"

    monkeypatch.setattr(distributed, "new_group", new_group)
    monkeypatch.setattr(distributed, "barrier", lambda group: events.append(f"wait in {group}"))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda group: events.append(f"leave {group}"))
    with processes.first_goes_first():
        events.append("prepare" if rank == 0 else "find")
    expected = ["prepare", "wait in patient"] if rank == 0 else ["wait in patient", "find"]
    assert events == [*expected, "leave patient"]


def launch(folder, data, *options):
    """Runs `torchrun … -m accel train` with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(COUNT)]
    words = ["--encoder", "small", "--num-parts", "3", "--part-dim", "2", "--device", "cpu", "--data", data]
    words += ["--recipe", "paper", "--learning-rate", "1e-3", "--batch-size", "8", "--out", folder, *options]
    return subprocess.Popen(
        [*command, "-m", "accel", "train", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_stopped_run_of_two_processes_goes_on_with_one(tmp_path):
    data, folder = tmp_path / "tiny.npz", tmp_path / "run"
    dataset = tiny_dataset()
    np.savez(data, train_images=dataset.train.images, test_images=dataset.test.images)
    process = launch(folder, data, "--epochs", "2000", "--checkpoint-every", "0")
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists(folder) and checkpoint.read(folder)["epoch"] >= 1:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert err.count("and saved; continue with") == 1, err
    assert [line.split()[:1] for line in out.splitlines()].count(["epoch"]) == 1  # one process prints the table
    assert "2 processes on cpu" in out

    done = checkpoint.read(folder)["epoch"] + 1
    options = {"data": str(data), "epochs": done}
    train(tiny_config(folder, **options), resume=True)
    whole = train(tiny_config(tmp_path / "whole", **options))
    for got, expected in zip(metrics(folder), metrics(whole), strict=True):
        # The command also looks at the parts now and then, `train` alone does not.
        assert {name: got[name] for name in expected} == pytest.approx(expected, rel=0.02)
    assert got["step"] == done * STEPS
    assert json.loads((folder / "config.json").read_text())["epochs"] == done
