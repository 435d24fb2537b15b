"""Training processes that are harmed: nothing is lost but the work since the last checkpoint.

After each harm the run is resumed, and must end in the weights, optimisers' state and metrics of a run that nothing
disturbed. Processes are forked, which takes milliseconds where a new one takes seconds to import PyTorch.
"""

import contextlib
import itertools
import os
import pathlib
import random
import resource
import signal
import subprocess
import time
import traceback

import pytest
import torch

from accel import cli
from accel.common import files
from accel.training import checkpoint, loop, step, train
from accel.training.interrupt import Stopped
from tests.faults.common import SMALL, accepted, save, start, step_of, wait_until
from tests.faults.test_found import folder_of_images
from tests.training.tiny import STEPS, assert_same_run, tiny_config, tiny_dataset

EPOCHS = 2
LAST = EPOCHS * STEPS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbs, and how many seconds one takes, and how many file operations."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    began = time.monotonic()
    train(config(folder), tiny_dataset())
    seconds = time.monotonic() - began
    count = itertools.count()
    with operations(lambda: next(count)):
        train(config(folder.with_name("counted")), tiny_dataset())
    return folder, seconds, next(count)


def config(folder):
    return tiny_config(folder, epochs=EPOCHS, checkpoint_every=0.0)


@contextlib.contextmanager
def operations(before):
    """Calls `before` before every operation on files that `write_whole` makes, and in the middle of every write."""
    with pytest.MonkeyPatch.context() as patch:

        def announced(owner, name):
            original = getattr(owner, name)

            def call(*arguments, **options):
                before()
                return original(*arguments, **options)

            patch.setattr(owner, name, call)

        class Written:
            def __init__(self, file):
                self.file = file

            def write(self, content):
                before()
                self.file.write(content[: len(content) // 2])
                self.file.flush()
                before()
                self.file.write(content[len(content) // 2 :])

            def __getattr__(self, name):
                return getattr(self.file, name)

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                self.file.close()

        opened = pathlib.Path.open

        def open_announced(path, mode="r", *arguments, **options):
            if mode != "wb":
                return opened(path, mode, *arguments, **options)
            before()
            return Written(opened(path, mode, *arguments, **options))

        patch.setattr(pathlib.Path, "open", open_announced)
        announced(files.os, "fsync")
        announced(pathlib.Path, "replace")
        announced(pathlib.Path, "unlink")
        yield


def forked(work):
    """The id of a new process that does the work; it ends with status 0, 3 if it was stopped, else 1."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        work()
        status = 0
    except Stopped:
        status = 3
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(child):
    """How the process ended: minus a signal's number, or its status."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def goes_on(folder, whole):
    """Resumes the run, or begins it if it has not got so far, and compares it with one that nothing disturbed."""
    train(config(folder), tiny_dataset(), resume=checkpoint.exists(folder))
    assert_same_run(whole, folder)
    assert not list(folder.rglob("*.partial"))


def cases(short, long):
    """Seeds of random cases: so many in the short version, so many in the long one."""
    return [*range(short), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(short, long))]


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.long) for part in range(1, 24))])
def test_killed_before_every_operation_on_a_file(whole, tmp_path, part, seen):
    folder, _, count = whole
    places = range(part, count, 24)
    for place in places:
        run = tmp_path / str(place)
        number = itertools.count()

        def strike(number=number, place=place):
            if next(number) == place:
                os.kill(os.getpid(), signal.SIGKILL)

        def work(run=run, strike=strike):
            with operations(strike):
                train(config(run), tiny_dataset())

        assert ended(forked(work)) == -signal.SIGKILL
        goes_on(run, folder)
    seen("SIGKILL before an operation on a file, or in the middle of a write", "nothing lost", len(places))


@pytest.mark.parametrize("seed", cases(2, 20))
def test_killed_at_random_moments_three_times(whole, tmp_path, seed, seen):
    folder, seconds, _ = whole
    generator = random.Random(seed)
    for _ in range(3):
        child = forked(lambda: train(config(tmp_path), tiny_dataset(), resume=checkpoint.exists(tmp_path)))
        time.sleep(generator.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if ended(child) == 0:
            break
        assert step_of(tmp_path) >= -1  # whole, or not there yet
    goes_on(tmp_path, folder)
    seen("SIGKILL at random moments, up to three times", "nothing lost")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("seed", cases(1, 12))
def test_signals_at_random_steps(whole, tmp_path, monkeypatch, number, seed, seen):
    folder, at = whole[0], random.Random(seed).randrange(LAST)
    original = step.TrainingStep.__call__

    def call(self, *batch):
        if self.number == at:
            os.kill(os.getpid(), number)
        original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(step.TrainingStep, "__call__", call)
        assert ended(forked(lambda: train(config(tmp_path), tiny_dataset()))) == 3
    assert step_of(tmp_path) == at + 1  # which is the one that was in hand
    goes_on(tmp_path, folder)
    seen("SIGTERM, SIGINT, SIGHUP", "the step in hand is finished and saved, nothing lost")


@pytest.mark.parametrize("seed", cases(2, 20))
def test_a_full_disk(whole, tmp_path, seed, seen):
    folder = whole[0]
    largest = (folder / checkpoint.NAME).stat().st_size

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (random.Random(seed).randrange(largest), resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="could not write"):
            train(config(tmp_path), tiny_dataset())

    assert ended(forked(work)) == 0
    goes_on(tmp_path, folder)
    seen("a disk that is full (a file that cannot grow)", "one sentence, nothing lost")


@pytest.fixture
def disk(tmp_path):
    """A file system of 64 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"needs root, to mount a small file system: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def leave(disk, free):
    """Fills the disk but for so many bytes; returns the file that takes up the rest."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    room = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - free))
    return ballast


@pytest.mark.parametrize("seed", cases(1, 12))
def test_a_disk_without_space(whole, disk, seed, seen):
    folder = whole[0]
    # Two checkpoints are never there at once, as they would have to be.
    free = random.Random(seed).randrange(2 * (folder / checkpoint.NAME).stat().st_size)
    ballast = leave(disk, free)
    with pytest.raises(OSError, match=r"could not write .* \(No space left on device\)") as refusal:
        train(config(disk / "run"), tiny_dataset())
    assert "\n" not in str(refusal.value)
    ballast.unlink()
    goes_on(disk / "run", folder)
    seen("a disk without space (a small file system) in training", "one sentence, nothing lost")


@pytest.mark.long
def test_a_disk_without_space_for_what_follows_training(disk, tmp_path, capsys, seen):
    pytest.importorskip("matplotlib")
    data, images = save(tmp_path / "tiny.npz"), folder_of_images(tmp_path / "images")
    run, other = disk / "run", tmp_path / "run"
    for folder in (run, other):
        accepted("train", "--data", data, *SMALL, "--epochs", 1, "--out", folder)
    commands = [
        ("measure", run), ("figures", run), ("transfer", run, "--probe", "knn"), ("report", run),
        ("pack", images, disk / "set.npy", "--image-size", 8), ("train", "--resume", "--out", run, "--epochs", 2),
    ]  # fmt: skip
    for free, words in itertools.product((0, 8192), commands):
        ballast = leave(disk, free)
        capsys.readouterr()
        if cli.main([str(word) for word in words]):  # what is small enough is written
            err = capsys.readouterr().err.splitlines()[-1]
            assert err.startswith("patchvae: "), err
            assert "No space left on device" in err or "but its disk has" in err
            assert str(disk) in err
            seen(f"a disk without space in `{words[0]}`", "one sentence, nothing lost")
        ballast.unlink()
    for words in commands:
        accepted(*words)
    accepted("train", "--resume", "--out", other, "--epochs", 2)
    assert_same_run(other, run)
    accepted("pack", images, tmp_path / "set.npy", "--image-size", 8)
    assert (disk / "set.npy").read_bytes() == (tmp_path / "set.npy").read_bytes()
    assert not list(disk.rglob("*.partial"))


@pytest.mark.parametrize("at", [1, STEPS + 1])
def test_a_folder_that_disappears(whole, tmp_path, monkeypatch, at, seen):
    run, original = tmp_path / "run", step.TrainingStep.__call__

    def call(self, *batch):
        if self.number == at:
            run.rename(tmp_path / "elsewhere")
        original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(step.TrainingStep, "__call__", call)
        with pytest.raises(OSError, match=r"could not write .*run/"):
            train(config(run), tiny_dataset())
    assert step_of(tmp_path / "elsewhere") == at
    (tmp_path / "elsewhere").rename(run)
    goes_on(run, whole[0])
    seen("a folder that disappears, and comes back", "one sentence, nothing lost")


def test_a_read_only_folder(tmp_path, seen):
    """To root nothing is read-only, so the process becomes nobody's."""
    run = tmp_path / "run"
    train(tiny_config(run, epochs=1), tiny_dataset())
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (tmp_path / "parent").mkdir()
    for folder in (run, tmp_path / "parent"):
        folder.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("test_", "pytest-", "popen-")):
            folder.chmod(0o755)  # pytest's own are nobody else's

    def work():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        with pytest.raises(OSError, match=r"run cannot be written to \(Permission denied\)"):
            train(config(run), tiny_dataset(), resume=True)
        with pytest.raises(OSError, match="Permission denied"):
            train(config(tmp_path / "parent" / "run"), tiny_dataset())

    assert ended(forked(work)) == 0
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    seen("a read-only folder", "one sentence, nothing lost", 2)


@pytest.mark.parametrize("seed", cases(1, 8))
def test_clocks_that_jump_or_stand_still(whole, tmp_path, monkeypatch, seed, seen):
    generator, now = random.Random(seed), 0.0
    wall = time.time

    def monotonic():
        nonlocal now
        now += generator.choice([0.0, 0.0, 1e-6, 10.0, 1e7])
        return now

    with monkeypatch.context() as patch:
        patch.setattr(loop.time, "time", lambda: wall() + generator.choice([-1e9, -1.0, 0.0, 1e9]))
        patch.setattr(loop.time, "monotonic", monotonic)
        train(config(tmp_path / "run"), tiny_dataset())
    assert_same_run(whole[0], tmp_path / "run")
    seen("clocks that jump or stand still", "nothing lost")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to "
                     "allocate 4096 bytes. Error code 12 (Cannot allocate memory)"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
    ids=["GPU", "CPU", "C++", "Python"],
)  # fmt: skip
def test_memory_runs_out(whole, tmp_path, monkeypatch, error, seen):
    original = step.TrainingStep.__call__

    def call(self, *batch):
        if self.number == STEPS:
            raise error
        original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(step.TrainingStep, "__call__", call)
        with pytest.raises(
            MemoryError, match=r"for a step of 8 images.*a new run with --batch-size 4 .*checkpoint\.pt"
        ):
            train(config(tmp_path / "run"), tiny_dataset())
    goes_on(tmp_path / "run", whole[0])
    seen(
        "memory runs out (a mocked allocator: GPU, CPU, C++, Python)",
        "one sentence that says what to lower, nothing lost",
    )


def children(process):
    """The ids of the processes that a process has started."""
    return [int(word) for word in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_processes_killed(tmp_path, rank, seen):
    data = save(tmp_path / "tiny.npz")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

    def launch(folder, *options):
        return start(
            "train", "--data", data, *SMALL, "--checkpoint-every", 0, "--out", folder, *options, torchrun=words
        )

    paper = ["--recipe", "paper"]  # options of the quick one depend on the number of epochs
    broken = launch(tmp_path / "run", "--epochs", 100_000, *paper)
    wait_until(broken, lambda: step_of(tmp_path / "run") >= STEPS, 180)
    own = sorted(children(broken.pid), key=lambda child: int(environment(child, "RANK")))
    os.kill(own[rank], signal.SIGKILL)
    began = time.monotonic()
    err = broken.communicate(timeout=90)[1]
    assert time.monotonic() - began < 60
    assert broken.returncode != 0
    assert not any(pathlib.Path(f"/proc/{child}").exists() for child in own)
    assert f"process {rank} " in err or f"local_rank: {rank}" in err, err
    done = checkpoint.read(tmp_path / "run")["epoch"] + 1
    for folder, options in ((tmp_path / "run", ["--resume"]), (tmp_path / "whole", paper)):
        again = launch(folder, "--epochs", done, *options)
        assert again.wait(180) == 0, again.communicate()[1]
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    seen("one of two processes of torchrun killed", "the other ends within a minute, nothing lost")


@pytest.fixture
def two_hosts():
    """Two network namespaces joined by a virtual cable: (name, interface, address) of each."""
    hosts = [(f"patchvae{os.getpid()}{end}", f"v{os.getpid()}{end}", f"10.77.0.{end + 1}") for end in range(2)]

    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name, _, _ in hosts:
            ip("netns", "add", name)
        ip("link", "add", hosts[0][1], "type", "veth", "peer", "name", hosts[1][1])
        for name, interface, address in hosts:
            ip("link", "set", interface, "netns", name)
            ip("-n", name, "address", "add", f"{address}/24", "dev", interface)
            ip("-n", name, "link", "set", interface, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield hosts
    finally:
        for name, _, _ in hosts:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.long
def test_the_link_between_two_hosts_is_cut(tmp_path, two_hosts, seen):
    """Nothing tells either end, as when a cable is pulled."""
    data, run = save(tmp_path / "tiny.npz"), tmp_path / "run"

    def launch(*options):
        ends = []
        for rank, (name, interface, _) in enumerate(two_hosts):
            place = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": interface}
            place |= {"MASTER_ADDR": two_hosts[0][2], "MASTER_PORT": "29777"}
            words = ["--data", data, *SMALL, "--checkpoint-every", 0, "--out", run, *options]
            ends.append(start("train", *words, environment=place, prefix=["ip", "netns", "exec", name]))
        return ends

    ends = launch("--epochs", 100_000)
    try:
        wait_until(ends[0], lambda: step_of(run) >= STEPS, 180)
        name, interface, _ = two_hosts[0]
        subprocess.run(["ip", "-n", name, "link", "set", interface, "down"], check=True)
        began = time.monotonic()
        for rank, end in enumerate(ends):
            err = end.communicate(timeout=90)[1]
            assert f"process {1 - rank} of this run" in err, err
            assert "has stopped or is out of reach" in err
            assert "Traceback" not in err
            assert end.returncode == 2
        assert time.monotonic() - began < 60
    finally:
        for end in ends:
            end.kill()
            end.communicate()
    accepted("train", "--resume", "--out", run, "--epochs", checkpoint.read(run)["epoch"] + 1)
    seen("the link between two hosts cut (two network namespaces)", "both end within a minute and name the other")


def environment(process, name):
    """A variable in a process's environment."""
    variables = pathlib.Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next(one.split(b"=", 1)[1] for one in variables if one.startswith(name.encode() + b"="))
