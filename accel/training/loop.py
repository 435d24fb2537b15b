"""A training run: epochs of steps, each followed by a held-out measurement, in a folder that can be resumed.

Weights, order of the images, flips and draws are functions of (seed, epoch, step), and the rest of the state
is in the checkpoint, so a run that was stopped anywhere and resumed ends in the bits of one that was not: on a CPU with
as many threads, on a GPU with --deterministic, without which its libraries choose algorithms by the clock.
"""

import contextlib
import dataclasses
import functools
import math
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from accel.common.describing import in_one_line
from accel.common.files import held
from accel.common.progress import duration, progress, say
from accel.data import Batch, Batches, Dataset
from accel.data.digests import difference, digests
from accel.training import advice, checkpoint, processes, record, run_folder, terminal
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig
from accel.training.held_out import HeldOut
from accel.training.interrupt import Stopped, StopRequest
from accel.training.refusals import refuse_missing_labels, refuse_other_options, refuse_sizes
from accel.training.renewal import retire_duplicates, split_parts
from accel.training.resources import choose_device, load_dataset
from accel.training.schedule import learning_rate, temperature_at
from accel.training.step import TrainingStep
from accel.training.systems import build_system

CHECK_EVERY = 100  # steps between looks at the loss on a GPU, each of which waits for it

# What rooms above this one have to say of a model after an epoch, counted from 1: a function of these alone, so that a
# resumed run logs what it would have logged.
Observer = Callable[[nn.Module, Dataset, int], dict[str, float]]


def train(config: TrainingConfig, dataset: Dataset | None = None, *, resume: bool = False) -> Path:
    """Trains as configured, or goes on with the run in the folder, and returns the run folder.

    The folder holds config.json, metrics.jsonl (one line an epoch), checkpoint.pt and model/ (for `load_run`).
    dataset: instead of the one that config.data names; of a torch Dataset or DataLoader, `accel.data.from_torch`.

    Raises ValueError or OSError with a sentence for options, data or files that do not fit, FileExistsError if
    the folder holds a run that is not resumed, FloatingPointError if the loss is not finite (the last
    checkpoint is kept), and Stopped, a KeyboardInterrupt, after Ctrl-C or SIGTERM, once the state is saved.
    """
    run = open_run(config, dataset, resume=resume)
    run.fit()
    return run.folder


def open_run(config: TrainingConfig, dataset: Dataset | None = None, *, resume: bool = False) -> "Run":
    """The run that `train` trains, before its next step."""
    folder = config.folder
    state = None
    with contextlib.ExitStack() as holding:
        if resume:
            if checkpoint.exists(folder):
                hold(folder, holding)
            state = checkpoint.read(folder)
            refuse_other_options(config, TrainingConfig.from_dict(state["config"], str(folder / checkpoint.NAME)))
            if config.epochs < state["epoch"]:
                raise ValueError(f"the run in {folder} has done {state['epoch']} epochs, --epochs must be no fewer")
        else:
            refuse_existing(folder)
        run = Run(config, load_dataset(config) if dataset is None else dataset)
        _ = run.data  # damaged data are noticed before anything is written
        if state is not None:
            run.restore(state)
        processes.wait_for_all()  # until everyone has seen whether there is a run, before the first writes one
        run.holding = holding.pop_all()
    return run


def hold(folder: Path, holding: contextlib.ExitStack) -> None:
    """Keeps other processes out of the run's folder until `holding` is closed; the first process does it for all."""
    if processes.rank() == 0:
        holding.enter_context(held(folder))


def refuse_existing(folder: Path) -> None:
    """Raises FileExistsError if the folder holds a run."""
    if checkpoint.exists(folder):
        raise FileExistsError(f"{folder} already holds a run: continue it with --resume, or choose another --out")


class Run:
    """A run in memory: the model, its training step, and how far it is.

    Several processes hold the same run and take every decision together; the first alone prints and writes.
    """

    def __init__(self, config: TrainingConfig, dataset: Dataset):
        self.config, self.dataset, self.folder = config, dataset, config.folder
        device = choose_device(config.device)
        if device.type == "cpu" and config.threads is not None:
            torch.set_num_threads(config.threads)
        # A data set may say which of its labels are for learning; without labels, all images are.
        self.train_set = dataset.labelled_train() if SYSTEMS[config.system].learns_labels else dataset.train
        images = self.train_set.images
        refuse_sizes(config, dataset)
        refuse_missing_labels(config, dataset)
        self.system = build_system(config, *images.shape[1:], dataset.num_classes, device)
        self.step = TrainingStep(self.system, config, device)
        self.held_out = HeldOut(self.system, dataset.test, config, device)
        flip = dataset.flip if config.flip == "auto" else config.flip == "yes"
        self.batches = Batches(
            self.train_set,
            config.batch_size,
            config.seed,
            flip,
            device,
            rank=processes.rank(),
            world_size=processes.count(),
        )
        self.device, self.writes = device, processes.rank() == 0
        self.check_every = CHECK_EVERY if device.type == "cuda" else 1
        self.agree_every = self.check_every if processes.count() > 1 else 1
        self.epoch = self.batch = 0
        self.seconds = 0.0  # spent in this epoch, before an interruption too
        self.history: list[dict] = []  # the lines of metrics.jsonl
        self.first = min(record.FIRST, len(self.batches))
        self.resumed = False
        self.holding = contextlib.ExitStack()  # the folder, once it is there, until the run ends

    @functools.cached_property
    def data(self) -> dict:
        """Digests of the images. Raises ValueError for a packed array that is damaged."""
        return digests(self.dataset, labels=SYSTEMS[self.config.system].learns_labels)

    @functools.cached_property
    def constant(self) -> float:
        """The PSNR of one colour in place of every image."""
        return advice.constant_psnr(self.dataset)

    @property
    def model(self) -> nn.Module:
        """The network that is saved, measured and pictured."""
        return self.system.model

    def state(self) -> dict:
        """All that a checkpoint holds and `restore` takes up."""
        return {
            "config": dataclasses.asdict(self.config),
            "data": self.data,
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "history": self.history,
            "training": self.step.state_dict(),
        }

    def restore(self, state: dict) -> None:
        """Takes up a checkpoint's state; ValueError if it is of other images or another model."""
        path = self.folder / checkpoint.NAME
        if found := difference(state["data"], self.data):
            raise ValueError(f"{path}: the run was trained on other images than those of {self.dataset.name}: {found}")
        try:
            self.step.load_state_dict(state["training"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = in_one_line(error)
            raise ValueError(f"{path} does not fit the model of its own configuration: {reason}") from error
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self.history, self.resumed = state["history"], True
        terms = {f"{images}_{term}" for images in ("train", "held_out") for term in self.system.terms}
        for line in self.history:
            if lacking := sorted(terms - line.keys()):
                raise ValueError(f"{path}: a line of its history lacks {', '.join(lacking)}")
        done = self.epoch * len(self.batches) + self.batch
        if self.step.number != done or not 0 <= self.batch < len(self.batches) or len(self.history) != self.epoch:
            raise ValueError(
                f"{path} contradicts itself: step {self.step.number}, {self.epoch} epochs of {len(self.batches)} and "
                f"{self.batch} steps, {len(self.history)} lines of history"
            )

    def save(self) -> None:
        """Replaces the checkpoint, unless a weight is not finite."""
        if self.step.ledger.problem() or not all(
            v.isfinite().all() for v in self.system.networks.state_dict().values()
        ):
            raise self.not_finite()
        state = self.state()
        if self.writes:
            checkpoint.write(self.folder, state)
        self.saved_at = time.monotonic()

    def write_record(self) -> None:
        """Adds this session to record.json, with what is known of the first steps."""
        if self.writes:
            known = record.read(self.folder) if self.resumed else None
            self.record = known or {"data": self.data, "sessions": []}
            self.record["sessions"].append(record.session(self.device, self.step.number))
            record.write(self.folder, self.record)

    def write_texts(self) -> None:
        """config.json and metrics.jsonl say what the checkpoint says, so an interruption cannot make them differ."""
        if self.writes:
            run_folder.write_texts(self.folder, self.config, self.history)

    def write_model(self) -> None:
        """model/, for `load_run` and from_pretrained."""
        if self.writes:
            run_folder.write_model(self.folder, self.model)

    def not_finite(self, otherwise: str = "a weight") -> FloatingPointError:
        """The error that ends a run that has diverged, with what is left of it; names a term of the loss first."""
        step, term = self.step.ledger.problem() or (self.step.number - 1, otherwise)
        if step < 0:
            return FloatingPointError(f"{term} is not finite before the first step: an option's number is too large")
        return FloatingPointError(
            f"training diverged: {term} is not finite at step {step} (epoch {step // len(self.batches) + 1}); "
            f"{self.folder / checkpoint.NAME} holds the last good state, and a new run with a smaller "
            "--learning-rate may go further"
        )

    def describe(self) -> str:
        """What is trained on what, and how; a line each."""
        train, test = self.train_set, self.dataset.test
        height, width = train.images.shape[1:3]
        where = self.device if processes.count() == 1 else f"{processes.count()} processes on {self.device.type}"
        millions = {
            name: sum(parameter.numel() for parameter in network.parameters()) / 1e6
            for name, network in self.system.networks.items()
        }
        others = "".join(f" and a {name} of {millions[name]:.2f} M" for name in millions if name != "model")
        return (
            f"{self.config.system} with {millions['model']:.2f} M weights{others}, {self.dataset.name}: "
            f"{len(train):,} images of {height}x{width} and {len(test):,} held out, "
            f"{where}, {self.folder}\n"
            f"{self.step.execution.reasons}"
        )

    def fit(self, observe: Observer | None = None, opening: str = "") -> None:
        """Trains to the last epoch. observe: gives further numbers for an epoch's line of metrics.jsonl. opening: what
        is printed first, once the folder has been written to."""
        with self.holding:
            self.begin()
            if self.epoch < self.config.epochs and self.writes:
                self.introduce(opening)
            with StopRequest() as stop:
                while self.epoch < self.config.epochs:
                    self.train_epoch(stop)
                    self.finish_epoch(observe)
                    self.answer(self.agree(stop)[1])
            self.write_model()

    def begin(self) -> None:
        """Makes the folder of a new run, and writes down where the run begins."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise FileExistsError(f"{self.folder} is no folder: choose another --out") from None
        if not self.resumed:
            hold(self.folder, self.holding)
            refuse_existing(self.folder)
        self.save()
        self.write_texts()
        self.write_record()
        if self.writes:
            run_folder.write_left_out(self.folder, self.dataset.left_out)

    def introduce(self, opening: str) -> None:
        """Says what is about to be trained, and what is wrong with that."""
        model, terms = self.model, self.system.terms
        columns = terminal.explanation(terms, model.has_decoder, model.has_parts)
        say(opening + self.describe(), columns)
        if self.epoch == 0:
            self.warn(advice.before_training(self.config, self.dataset, len(self.batches)))
        say(terminal.header(terms))

    def warn(self, sentences: list[str]) -> None:
        """Each on a line of its own, where errors go."""
        for sentence in sentences:
            say(f"patchvae: warning: {sentence}", error=True)

    def train_epoch(self, stop: StopRequest) -> None:
        """The rest of the epoch's steps."""
        if self.config.decay:
            rate = learning_rate(self.epoch, self.config.epochs, self.config.learning_rate, self.config.decay)
            for optimiser in self.system.optimisers.values():
                for group in optimiser.param_groups:
                    group["lr"].fill_(rate)  # on the device, where a captured step reads it
        began = time.monotonic() - self.seconds
        label = f"epoch {self.epoch + 1}/{self.config.epochs}"
        bar = progress(len(self.batches), initial=self.batch, shown=self.writes, desc=label, unit="step")
        with bar as advance:
            for batch in self.batches.epoch(self.epoch, self.batch):
                self.take_step(batch)
                self.batch += 1
                if self.step.number == self.first:
                    self.record_first()
                self.seconds = time.monotonic() - began
                if self.batch % self.check_every == 0 and self.step.ledger.problem():
                    raise self.not_finite()
                advance(1, self.time_left())
                if self.batch % self.agree_every == 0 and self.batch < len(self.batches):
                    due, signal_number = self.agree(stop)
                    if due or signal_number:
                        self.save()
                    self.answer(signal_number)
        if self.step.ledger.problem():  # which waits for the last step
            raise self.not_finite()
        self.seconds = time.monotonic() - began

    def time_left(self) -> str:
        """Of the whole run, by the pace of this epoch, for its bar."""
        steps = (self.config.epochs - self.epoch) * len(self.batches) - self.batch
        return f"{duration(self.seconds / self.batch * steps)} left in all"

    def record_first(self) -> None:
        """Keeps in record.json what the first steps, taken in one go, have led to; `accel verify` repeats them."""
        loss, weights = self.step.ledger.means()["total"], record.digest_of(self.system.networks)
        if self.writes:
            loss = loss if math.isfinite(loss) else None
            self.record["first"] = {"steps": self.first, "loss": loss, "weights": weights}
            record.write(self.folder, self.record)

    def take_step(self, batch: Batch) -> None:
        """The next step; MemoryError says what to lower where there is too little memory for it."""
        try:
            self.step(*batch)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not re.search("memory|bad_alloc", str(error)):
                raise
            asked = re.search(r"allocate (\d[\d.]* ?\w+)", str(error))
            size = self.config.batch_size
            raise MemoryError(
                f"not enough memory on {self.device} for a step of {size} images"
                f"{f' (it asked for {asked[1]} more)' if asked else ''}: activations take about half with --batch-size "
                f"{max(1, size // 2)}, in a new run; {self.folder / checkpoint.NAME} holds the state from which "
                "--resume goes on where there is more memory"
            ) from error

    def agree(self, stop: StopRequest) -> tuple[bool, int]:
        """(Is it time to save?, the signal by which any process was asked to stop, or 0), the same in all of them."""
        due = time.monotonic() - self.saved_at >= self.config.checkpoint_every
        said = [due, stop.signal_number or 0]
        if processes.count() > 1:
            said = processes.largest(torch.tensor(said, device=self.device)).tolist()
        return bool(said[0]), said[1]

    def answer(self, signal_number: int) -> None:
        """Stops if somebody asked for it, the state being saved."""
        if signal_number and not self.writes:
            raise SystemExit(128 + signal_number)
        if signal_number:
            raise Stopped(
                f"stopped after step {self.step.number} of {self.config.epochs * len(self.batches)} with everything "
                "saved; continue with: "
                f"python -m accel train --resume --out {shlex.quote(str(self.folder))}",
                signal_number,
            )

    def finish_epoch(self, observe: Observer | None) -> None:
        """Measures, reports and saves a finished epoch."""
        config, ledger = self.config, self.step.ledger
        number = self.step.number - 1  # of the last step taken
        held_out = self.held_out.measure(number)
        for term in self.system.terms:
            if not math.isfinite(held_out[term]):
                raise self.not_finite(f"held_out_{term}")
        line = {"epoch": self.epoch + 1, "step": self.step.number}
        line |= {f"train_{term}": value for term, value in ledger.means().items()}
        line |= {f"held_out_{name}": value for name, value in held_out.items()}
        if observe is not None:
            line |= observe(self.model, self.dataset, self.epoch + 1)
        line |= {
            "temperature": temperature_at(number, config),
            "seconds": self.seconds,
            "images_per_second": ledger.images / max(self.seconds, 1e-6),  # a clock may stand still
            "compiled": self.step.compiled,
            "captured": self.step.captured,
        }
        self.history.append({name: v if math.isfinite(v) else None for name, v in line.items()})
        self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
        ledger.reset()
        self.renew_parts()
        self.save()
        self.write_texts()
        self.write_model()
        if self.writes:
            say(terminal.epoch_line(self.system.terms, line, self.config.epochs))
            steps = self.config.epochs * len(self.batches)
            self.warn(advice.after_epoch(self.config, self.history, steps, self.constant))

    def renew_parts(self) -> None:
        """Splits much used parts in the first half of the run, and retires duplicates in the second, if wanted."""
        if not self.config.renew or self.epoch >= self.config.epochs:
            return
        images = self.train_set.images
        if 2 * self.epoch <= self.config.epochs:
            split_parts(self.model, images, self.config.seed + self.epoch)
        else:
            retire_duplicates(self.model, images, self.config.renew)
