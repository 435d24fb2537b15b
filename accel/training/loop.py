"""The training loop: epochs of steps, each followed by an evaluation on held-out images, with resumable checkpoints.

Initial weights, order of the images, flips and noise are functions of (seed, epoch, step), and the rest of the state
is in the checkpoint. So a run that was stopped anywhere and resumed gives the same bits as an uninterrupted one: on a
CPU with the same number of threads, on a GPU with --deterministic (otherwise its libraries choose algorithms by speed).
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
from typing import Any, cast

import torch
from torch import Tensor, nn

from accel.common.describing import in_one_line
from accel.common.files import held
from accel.common.progress import duration, progress, say
from accel.data import Batch, Batches, Dataset
from accel.data.digests import difference, digests
from accel.data.sources import NAMES
from accel.models import PatchVAE
from accel.models.autoencoder import Backbone
from accel.training import advice, checkpoint, event_files, processes, record, run_folder, terminal
from accel.training.catalogue import SYSTEMS
from accel.training.config import TrainingConfig
from accel.training.held_out import HeldOut
from accel.training.interrupt import Stopped, StopRequest
from accel.training.refusals import refuse_missing_labels, refuse_other_data, refuse_other_options, refuse_sizes
from accel.training.renewal import UNKNOWN, reassign_parts, retire_duplicates, rounds_of_assignment
from accel.training.resources import choose_device, learned_images, load_dataset
from accel.training.schedule import learning_rate, temperature_at
from accel.training.step import TrainingStep
from accel.training.systems import build_system

CHECK_EVERY = 100  # steps between checks of the loss on a GPU, each of which waits for it

# A function for additional numbers in the log, of the model, the data set and the number of the epoch, from 1. It must
# depend only on these, so that a resumed run logs the same numbers.
Observer = Callable[[nn.Module, Dataset, int], dict[str, float]]


def train(config: TrainingConfig, dataset: Dataset | None = None, *, resume: bool = False) -> Path:
    """Trains a new run, or continues the run in its folder (resume=True); returns the run folder.

    The folder holds config.json, metrics.jsonl (one line per epoch), checkpoint.pt and model/ (for `load_run`).
    dataset: used instead of config.data; make one from a torch Dataset or DataLoader with `accel.data.from_torch`, and
    `config_for` chooses options for it.

    Raises ValueError or OSError for invalid options, data or files, TypeError for another dataset, FileExistsError if
    the folder holds a run and resume is False, FloatingPointError if the loss is not finite (the last checkpoint is
    kept), and Stopped, a KeyboardInterrupt, after Ctrl-C or SIGTERM, once the state is saved.
    """
    run = open_run(config, dataset, resume=resume)
    run.fit()
    return run.folder


def open_run(config: TrainingConfig, dataset: Dataset | None = None, *, resume: bool = False) -> "Run":
    """Opens a new or resumed run, ready for its next step."""
    if dataset is not None:
        refuse_other_data(dataset)
    folder = config.folder
    state = None
    with contextlib.ExitStack() as holding:
        if resume:
            if checkpoint.exists(folder):
                hold(folder, holding)
            state = checkpoint.read(folder)
            refuse_other_options(config, TrainingConfig.from_dict(state["config"], str(folder / checkpoint.NAME)))
            if config.epochs < state["epoch"]:
                raise ValueError(
                    f"the run in {folder} has already done {state['epoch']} epochs, --epochs must be at least as many"
                )
        else:
            refuse_existing(folder)
            if dataset is None:
                refuse_among_images(config)
        if config.tensorboard:
            event_files.summary_writer()  # that it is not installed is noticed before anything is written
        run = Run(config, load_dataset(config) if dataset is None else dataset)
        _ = run.data  # damaged data are noticed before anything is written
        if state is not None:
            run.restore(state)
        processes.wait_for_all()  # until all processes have checked for an existing run, before the first writes one
        run.holding = holding.pop_all()
    return run


def hold(folder: Path, holding: contextlib.ExitStack) -> None:
    """Locks the run's folder until `holding` is closed; the first of several processes does so for all."""
    if processes.rank() == 0:
        holding.enter_context(held(folder))


def refuse_existing(folder: Path) -> None:
    """Raises FileExistsError if the folder holds a run."""
    if checkpoint.exists(folder):
        raise FileExistsError(
            f"{folder} already holds a run: continue it with --resume (in Python resume=True), or choose another --out"
        )


def refuse_among_images(config: TrainingConfig) -> None:
    """Raises ValueError if the run's folder lies in that of its images, of which its pictures would become some."""
    images = Path(config.data)
    if config.data in NAMES or not images.is_dir():
        return
    if config.folder.resolve().is_relative_to(images.resolve()):
        raise ValueError(
            f"{config.folder} is in the folder of images {config.data}, where its files would become part of the data: "
            "choose another --out"
        )


class Run:
    """A run in memory: the model, its training step, and its progress.

    Several processes have the same run and make all decisions together; only the first prints and writes files.
    """

    def __init__(self, config: TrainingConfig, dataset: Dataset):
        self.config, self.dataset, self.folder = config, dataset, config.folder
        device = choose_device(config.device)
        if device.type == "cpu" and config.threads is not None:
            torch.set_num_threads(config.threads)
        self.train_set = learned_images(config, dataset)
        _, height, width, channels = self.train_set.images.shape
        refuse_sizes(config, dataset)
        refuse_missing_labels(config, dataset)
        self.system = build_system(config, height, width, channels, dataset.num_classes, device)
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
        # Of each cell, the part that is known to occur there; the batches have them in place of labels.
        self.identities: Tensor | None = None
        if config.renew:
            grid = cast(PatchVAE, self.model).grid
            self.identities = torch.full((len(self.train_set), *grid), UNKNOWN, dtype=torch.int16)
            self.batches.labels = self.identities.numpy()
        self.step = TrainingStep(self.system, config, device, config.epochs * len(self.batches))
        self.device, self.writes = device, processes.rank() == 0
        self.check_every = CHECK_EVERY if device.type == "cuda" else 1
        self.agree_every = self.check_every if processes.count() > 1 else 1
        self.epoch = self.batch = 0
        self.seconds = 0.0  # time spent in this epoch, including that before an interruption
        self.between = 0.0  # time that the last evaluation took, with renewal and saving
        self.history: list[dict[str, Any]] = []  # the lines of metrics.jsonl
        self.first = min(record.FIRST, len(self.batches))
        self.resumed = False
        self.holding = contextlib.ExitStack()  # lock on the folder, from its creation to the end of the run
        self.events: event_files.EventFiles | None = None  # from the creation of the folder, with --tensorboard

    @functools.cached_property
    def data(self) -> dict[str, str]:
        """Digests of the images. Raises ValueError for a packed array that is damaged."""
        return digests(self.dataset, labels=SYSTEMS[self.config.system].learns_labels)

    @functools.cached_property
    def constant(self) -> float:
        """The PSNR of one colour as the reconstruction of every image."""
        return advice.constant_psnr(self.dataset)

    @property
    def model(self) -> Backbone:
        """The network that is saved and evaluated."""
        return cast(Backbone, self.system.model)

    def state(self) -> dict[str, Any]:
        """The state of the run for a checkpoint and `restore`."""
        return {
            "config": dataclasses.asdict(self.config),
            "data": self.data,
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "history": self.history,
            "training": self.step.state_dict(),
            "identities": self.identities,
        }

    def restore(self, state: checkpoint.State) -> None:
        """Restores the state of a checkpoint; ValueError if it belongs to other images or another model."""
        path = self.folder / checkpoint.NAME
        if found := difference(state["data"], self.data):
            raise ValueError(
                f"{path}: the run was trained on images that differ from those of {self.dataset.name}: {found}"
            )
        try:
            self.step.load_state_dict(cast(dict[str, Any], state["training"]))
        except (KeyError, RuntimeError, ValueError) as error:
            reason = in_one_line(error)
            raise ValueError(
                f"the state in {path} does not fit the model that its own configuration describes: {reason}"
            ) from error
        self.restore_identities(state["identities"])
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self.history, self.resumed = state["history"], True
        terms = {f"{images}_{term}" for images in ("train", "held_out") for term in self.system.terms}
        for line in self.history:
            if lacking := sorted(terms - line.keys()):
                raise ValueError(f"{path}: a line of its history lacks {', '.join(lacking)}")
        done = self.epoch * len(self.batches) + self.batch
        if self.step.number != done or not 0 <= self.batch < len(self.batches) or len(self.history) != self.epoch:
            raise ValueError(
                f"{path} is inconsistent: step {self.step.number} after {self.epoch} epochs of {len(self.batches)} "
                f"steps and {self.batch} further steps, with {len(self.history)} lines of history"
            )

    def restore_identities(self, saved: Tensor | None) -> None:
        """Restores the identities of a checkpoint; ValueError unless they fit the images and the parts."""
        own = self.identities
        if saved is None and own is None:
            return
        if (
            saved is None
            or own is None
            or (saved.shape, saved.dtype) != (own.shape, own.dtype)
            or not ((saved >= UNKNOWN) & (saved < self.config.num_parts)).all()
        ):
            raise ValueError(f"{self.folder / checkpoint.NAME}: its identities of parts do not fit its configuration")
        own.copy_(saved)

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
        """Adds this session to record.json, which keeps the result of the first steps."""
        if self.writes:
            known = record.read(self.folder) if self.resumed else None
            self.record = known or {"data": self.data, "sessions": []}
            self.record["sessions"].append(record.session(self.device, self.step.number))
            record.write(self.folder, self.record)

    def write_texts(self) -> None:
        """Writes config.json and metrics.jsonl in agreement with the checkpoint."""
        if self.writes:
            run_folder.write_texts(self.folder, self.config, self.history)

    def write_model(self) -> None:
        """Writes model/, for `load_run` and from_pretrained."""
        if self.writes:
            run_folder.write_model(self.folder, self.model)

    def not_finite(self, otherwise: str = "a weight") -> FloatingPointError:
        """The error for a run that has diverged, which names a term of the loss and the last checkpoint."""
        step, term = self.step.ledger.problem() or (self.step.number - 1, otherwise)
        if step < 0:
            return FloatingPointError(
                f"{term} is not finite before the first step: the value of an option is too large"
            )
        return FloatingPointError(
            f"training diverged: {term} is not finite at step {step} (epoch {step // len(self.batches) + 1}); "
            f"{self.folder / checkpoint.NAME} holds the last good state, and a new run with a smaller "
            "--learning-rate may not diverge"
        )

    def describe(self) -> str:
        """A description of model, data and execution, in two lines."""
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
        """Trains to the last epoch.

        observe: returns further numbers for an epoch's line of metrics.jsonl. opening: text to print first, after the
        folder was created.
        """
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
        """Creates the folder of a new run, and writes its initial state."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise FileExistsError(f"{self.folder} is not a folder: choose another --out") from None
        if not self.resumed:
            hold(self.folder, self.holding)
            refuse_existing(self.folder)
        self.save()
        self.write_texts()
        self.write_record()
        if self.writes:
            run_folder.write_left_out(self.folder, self.dataset.left_out)
        if self.writes and self.config.tensorboard:
            with checkpoint.writing(self.folder / event_files.FOLDER, self.folder):
                self.events = event_files.EventFiles(self.folder, self.history)
            self.holding.callback(self.events.close)

    def introduce(self, opening: str) -> None:
        """Prints a description of the run, and warnings about its options."""
        model, terms = self.model, self.system.terms
        columns = terminal.explanation(terms, model.has_decoder, model.has_parts)
        say(opening + self.describe(), columns)
        if self.epoch == 0:
            self.warn(advice.before_training(self.config, self.dataset, len(self.batches)))
        say(terminal.header(terms))

    def warn(self, sentences: list[str]) -> None:
        """Prints warnings to standard error, one per line."""
        for sentence in sentences:
            say(f"patchvae: warning: {sentence}", error=True)

    def train_epoch(self, stop: StopRequest) -> None:
        """Takes the remaining steps of the epoch."""
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
        """Remaining time of the run at the speed of this epoch and of the last evaluation, as text for the bar."""
        epochs = self.config.epochs - self.epoch
        seconds = self.seconds / self.batch * (epochs * len(self.batches) - self.batch) + epochs * self.between
        return f"{duration(seconds)} left in total"

    def record_first(self) -> None:
        """Records the result of the first steps in record.json; `verify` repeats them."""
        loss, weights = self.step.ledger.means()["total"], record.digest_of(self.system.networks)
        if self.writes:
            finite = loss if math.isfinite(loss) else None
            self.record["first"] = {"steps": self.first, "loss": finite, "weights": weights}
            record.write(self.folder, self.record)

    def take_step(self, batch: Batch) -> None:
        """Takes the next step; MemoryError with advice if there is not enough memory."""
        try:
            self.step(*batch)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not re.search("memory|bad_alloc", str(error)):
                raise
            asked = re.search(r"allocate (\d[\d.]* ?\w+)", str(error))
            size = self.config.batch_size
            raise MemoryError(
                f"not enough memory on {self.device} for a step of {size} images"
                f"{f' ({asked[1]} more were needed)' if asked else ''}: a new run with --batch-size "
                f"{max(1, size // 2)} needs about half as much for activations; on a machine with more memory, "
                f"--resume continues from {self.folder / checkpoint.NAME}"
            ) from error

    def agree(self, stop: StopRequest) -> tuple[bool, int]:
        """(whether to save now, the signal to stop that any process got, or 0), the same in all processes."""
        due = time.monotonic() - self.saved_at >= self.config.checkpoint_every
        said = [due, stop.signal_number or 0]
        if processes.count() > 1:
            said = processes.largest(torch.tensor(said, device=self.device)).tolist()
        return bool(said[0]), said[1]

    def answer(self, signal_number: int) -> None:
        """Stops if requested, after the state was saved."""
        if signal_number and not self.writes:
            raise SystemExit(128 + signal_number)
        if signal_number:
            raise Stopped(
                f"stopped after step {self.step.number} of {self.config.epochs * len(self.batches)} and saved; "
                f"continue with: python -m accel train --resume --out {shlex.quote(str(self.folder))}",
                signal_number,
            )

    def finish_epoch(self, observe: Observer | None) -> None:
        """Evaluates, logs and saves a finished epoch."""
        began = time.monotonic()
        config, ledger = self.config, self.step.ledger
        number = self.step.number - 1  # of the last step taken
        held_out = self.held_out.measure(number)
        for term in self.system.terms:
            if not math.isfinite(held_out[term]):
                raise self.not_finite(f"held_out_{term}")
        line: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.step.number}
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
        if self.events is not None:
            with checkpoint.writing(self.folder / event_files.FOLDER, self.folder):
                self.events.add(self.history[-1])
        self.between = time.monotonic() - began
        if self.writes:
            left = (config.epochs - self.epoch) * (line["seconds"] + self.between)
            say(terminal.epoch_line(self.system.terms, line, config.epochs, left))
            steps = self.config.epochs * len(self.batches)
            self.warn(advice.after_epoch(self.config, self.history, steps, self.constant))

    def renew_parts(self) -> None:
        """With --renew, assigns parts anew in the first third of the run, and retires duplicates after it."""
        if self.identities is None or self.epoch >= self.config.epochs:
            return
        model, optimiser, images = cast(PatchVAE, self.model), self.system.optimisers["model"], self.train_set.images
        rounds = rounds_of_assignment(self.config.epochs)
        if self.epoch in rounds:
            reassign_parts(model, optimiser, images, self.config.seed + self.epoch, self.identities)
        elif self.epoch > max(rounds):
            retire_duplicates(model, images, self.config.renew, self.identities)
        # Sums may be rounded in another way there, and other parts chosen. Bytes, since not all backends send int16.
        processes.copy_from_first(model, optimiser, self.identities.view(torch.uint8))
