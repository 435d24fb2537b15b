"""Training of classifiers on a run's encoder: fine-tuning with frozen first layers, or a linear probe."""

import contextlib
import copy
import math
import shlex
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.common.describing import in_one_line
from accel.common.files import held, write_whole
from accel.common.progress import progress
from accel.common.schema import refuse_other
from accel.data import Batches, Dataset, epoch_flips, epoch_order
from accel.data.digests import digests
from accel.evaluation.probes import extract, top_accuracies
from accel.evaluation.splits import BATCH, Examples, split
from accel.models import Classifier
from accel.models.classifier import HIDDEN
from accel.models.encoder import COARSE_GRID, coarse_vector
from accel.models.storage import load_tensors, tensors_to_bytes
from accel.ops import Noise
from accel.training import checkpoint
from accel.training.capture import Captured
from accel.training.checkpoint import Moments, writing
from accel.training.compilation import Compiled
from accel.training.held_out import evaluating
from accel.training.interrupt import Stopped, StopRequest
from accel.training.protocols import FREEZES, TransferConfig
from accel.training.step import Execution, load_optimiser

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4  # not given in the paper; as in the authors' code
CACHE = 4 << 30  # maximal size of cached features, in bytes
SAVE_EVERY = 30  # seconds


class State(TypedDict):
    """The content of the checkpoint of an unfinished transfer."""

    identity: dict[str, str | int | dict[str, str | float | bool]]
    data: dict[str, str]
    encoder: int
    network: dict[str, Tensor]
    optimiser: Moments
    clock: Tensor
    epoch: int
    seconds: float
    best: tuple[float, int, dict[str, Tensor]]


def checksum(network: nn.Module) -> int:
    """CRC-32 of all parameters and buffers, in order."""
    crc = 0
    for value in network.state_dict().values():
        crc = zlib.crc32(value.cpu().contiguous().numpy().tobytes(), crc)
    return crc


class Fit:
    """One classifier, trained by stochastic gradient descent on cross-entropy.

    Training uses the precision of `execution`, as in the run; testing uses float32.

    The features of a frozen encoder, also of mirrored images, are computed once if they fit into memory; the result is
    the same. Subclasses choose the network, its inputs and the schedule.
    """

    schedule: str
    weight_decay: float

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        protocol: str,
        config: TransferConfig,
        dataset: Dataset,
        device: torch.device,
        execution: Execution,
    ):
        self.folder, self.protocol, self.config = folder / "transfer" / protocol, protocol, config
        self.run_folder, self.dataset, self.device = folder, dataset, device
        self.encoder = checksum(model.encoder)
        self.epochs, self.batch_size, self.learning_rate = self.pace(model)
        self.sets = split(dataset)
        self.train = self.sets["train"]
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = self.classifier(model)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.features = self.kept_features(model)
        self.learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        # On the device, where a captured step reads it.
        self.rate = torch.tensor(self.learning_rate, device=device)
        self.optimiser = torch.optim.SGD(self.learned, self.rate, MOMENTUM, weight_decay=self.weight_decay, fused=True)
        self.parameters = {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
            "momentum": MOMENTUM,
            "weight_decay": self.weight_decay,
            "train_images": len(self.train),
            "validation_images": len(self.sets["validation"]),
            "flip": dataset.flip,
            "precision": "float32" if self.features is not None else execution.precision,
        } | self.own_parameters()
        self.autocast = execution.autocast(device)
        self.seed, self.clock = torch.tensor(config.seed, device=device), torch.tensor(0, device=device)
        self.loss = torch.zeros((), device=device)
        self.step = self.update
        if execution.compile:
            self.step = Compiled(self.update, lambda: copy.deepcopy((self.state(), self.loss)), self.take_back)
        if device.type == "cuda":
            self.step = Captured(self.step, device)
        if self.features is None:
            indices = self.train.indices
            self.image_batches = Batches(
                dataset.train, self.batch_size, config.seed, dataset.flip, device, indices=indices
            )
        self.data = digests(dataset, labels=True)
        self.epoch, self.seconds = 0, 0.0
        self.best = (-1.0, 0, None)  # accuracy on the validation images, epoch, weights

    def pace(self, model: nn.Module) -> tuple[int, int, float]:
        """(epochs, batch size, initial learning rate), from the options or by default."""
        raise NotImplementedError

    def classifier(self, model: nn.Module) -> nn.Module:
        """The network to train; new weights are drawn from PyTorch's generator."""
        raise NotImplementedError

    def kept_features(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The features to cache (`extract_all`), or None to train on images."""
        raise NotImplementedError

    def own_parameters(self) -> dict:
        """Further parameters for transfer.json."""
        raise NotImplementedError

    def logits(self, inputs: Tensor, noise: Noise | None = None) -> Tensor:
        """Logits of images, or of their features if those are cached."""
        raise NotImplementedError

    def rate_of(self, epoch: int) -> float:
        """The learning rate of an epoch."""
        raise NotImplementedError

    def extract_all(self, encoder: nn.Module, pool: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Features (n, F) of each set, and of mirrored training images if training mirrors."""
        names = ("train", "validation", "test")
        features = {name: extract(encoder, pool, self.sets[name], self.device) for name in names}
        if self.dataset.flip:
            features["mirrored"] = extract(encoder, pool, self.train, self.device, mirror=True)
        return features

    def update(self, inputs: Tensor, labels: Tensor) -> None:
        """One step of SGD."""
        with self.autocast if self.features is None else contextlib.nullcontext():
            logits = self.logits(inputs, Noise(self.seed, self.clock)).float()
        loss = functional.cross_entropy(logits, labels)
        self.loss += loss.detach()
        self.descend(loss)
        self.clock += 1

    @torch.compiler.disable
    def descend(self, loss: Tensor) -> None:
        """The optimiser's step down the gradient."""
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(loss.device.type, enabled=False):  # each product in the precision of its forward pass
            loss.backward()
        self.optimiser.step()

    def batches(self, epoch: int) -> Examples:
        """The training batches of an epoch: the same images and mirrorings with and without cached features."""
        if self.features is None:
            yield from self.image_batches.epoch(epoch)
            return
        count, size = len(self.train), min(self.batch_size, len(self.train))
        order = epoch_order(count, seed=self.config.seed, epoch=epoch)[: count // size * size].reshape(-1, size)
        labels = torch.as_tensor(self.train.labels[order], device=self.device)
        mirrored = None
        if self.dataset.flip:
            mirrored = epoch_flips(count, seed=self.config.seed, epoch=epoch)[order]
            mirrored = torch.as_tensor(mirrored, device=self.device)[..., None]
        for number, indices in enumerate(torch.as_tensor(order, device=self.device)):
            inputs = self.features["train"][indices]
            if mirrored is not None:
                inputs = torch.where(mirrored[number], self.features["mirrored"][indices], inputs)
            yield inputs, labels[number]

    def accuracies(self, name: str) -> tuple[float, float]:
        """(top-1, top-5) in % on the validation or test images."""
        with evaluating(self.network):
            if self.features is None:
                examples = self.sets[name].batches(self.device)
            else:
                labels = torch.as_tensor(self.sets[name].labels, device=self.device)
                examples = zip(self.features[name].split(BATCH), labels.split(BATCH), strict=True)
            return top_accuracies((self.logits(inputs), labels) for inputs, labels in examples)

    def run(self) -> dict:
        """Trains to the last epoch and evaluates on the test images; returns the entry of transfer.json."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder):
            return self.finish()

    def finish(self) -> dict:
        """As `run`, with the lock on the folder held."""
        self.resume()
        saved_at = time.monotonic()
        bar = progress(self.epochs, initial=self.epoch, desc=self.protocol, unit="epoch")
        with bar as advance, StopRequest() as stop:
            while self.epoch < self.epochs:
                self.train_epoch()
                advance(1)
                if time.monotonic() - saved_at >= SAVE_EVERY or stop.signal_number is not None:
                    self.save()
                    saved_at = time.monotonic()
                if stop.signal_number is not None:
                    raise Stopped(
                        f"stopped after epoch {self.epoch} of {self.epochs} of {self.protocol} and saved; the same "
                        f"command on {shlex.quote(str(self.run_folder))} continues",
                        stop.signal_number,
                    )
        began = time.monotonic()
        last = self.accuracies("test")
        if isinstance(self.network, Classifier):
            self.network.save_pretrained(self.folder / "model")
        self.network.load_state_dict(self.best[2])
        selected = self.accuracies("test")
        (self.folder / checkpoint.NAME).unlink(missing_ok=True)
        outcome = {"last_top1": last[0], "selected_top1": selected[0], "selected_epoch": self.best[1]}
        if self.dataset.num_classes > 5:
            outcome |= {"top5": last[1], "selected_top5": selected[1]}
        return self.identity() | outcome | {"seconds": self.seconds + time.monotonic() - began}

    def train_epoch(self) -> None:
        """One pass over the training images, and an evaluation on the validation images."""
        began = time.monotonic()
        self.network.train()
        self.rate.fill_(self.rate_of(self.epoch))
        self.loss.zero_()
        for inputs, labels in self.batches(self.epoch):
            self.step(inputs, labels)
        if not math.isfinite(self.loss.item()):
            raise FloatingPointError(
                f"{self.protocol}: the loss is not finite in epoch {self.epoch + 1}; a smaller --learning-rate may help"
            )
        self.epoch += 1
        accuracy, _ = self.accuracies("validation")
        if accuracy > self.best[0]:
            weights = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.best = (accuracy, self.epoch, weights)
        self.seconds += time.monotonic() - began

    def identity(self) -> dict:
        """The settings that identify a transfer."""
        return {
            "protocol": self.protocol,
            "data": self.dataset.name,
            "seed": self.config.seed,
            "epochs": self.epochs,
            "parameters": self.parameters,
        }

    def state(self) -> dict:
        """The state that a step changes, except the sum of the loss."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "clock": self.clock,
        }

    def load_state(self, state: dict) -> None:
        """Restores this state, into the same tensors."""
        self.network.load_state_dict(state["network"])
        load_optimiser(self.optimiser, state["optimiser"])
        self.clock.copy_(state["clock"])

    def take_back(self, before: tuple[dict, Tensor]) -> None:
        """Undoes a step whose compilation failed."""
        state, loss = before
        self.load_state(state)
        self.loss.copy_(loss)

    def save(self) -> None:
        """Replaces the state of the unfinished transfer."""
        state = self.state() | {
            "identity": self.identity(),
            "data": self.data,
            "encoder": self.encoder,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "best": self.best,
        }
        path = self.folder / checkpoint.NAME
        self.folder.mkdir(parents=True, exist_ok=True)
        with writing(path, self.folder):
            write_whole({path: tensors_to_bytes(state)})

    def resume(self) -> None:
        """Restores an interrupted transfer with the same settings, if the run was not trained further since."""
        path = self.folder / checkpoint.NAME
        if not path.is_file():
            return
        state = load_tensors(path)
        if isinstance(state, dict) and "data" not in state:
            return  # of an earlier version, which did not record the images
        refuse_other(state, State, path)
        if (state["identity"], state["encoder"], state["data"]) != (self.identity(), self.encoder, self.data):
            return
        try:
            copy.deepcopy(self.network).load_state_dict(state["best"][2])
            self.load_state(state)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = in_one_line(error)
            raise ValueError(f"{path} does not fit its classifier: {reason}; remove the file to start again") from error
        self.epoch, self.seconds, self.best = state["epoch"], state["seconds"], state["best"]


class FineTuning(Fit):
    """The paper's protocol (section 4.1): a classifier on a copy of the encoder, whose first stages are frozen."""

    schedule, weight_decay = "divided by 10 after each third", WEIGHT_DECAY

    def pace(self, model):
        epochs = 30 if model.config["encoder"] == "resnet18" else 90
        return self.config.epochs or epochs, self.config.batch_size or 128, self.config.learning_rate or 0.01

    def classifier(self, model):
        network = Classifier(
            image_size=model.image_size,
            channels=model.encoder.conv1.in_channels,
            num_classes=self.dataset.num_classes,
            encoder=model.config["encoder"],
        )
        network.encoder.load_state_dict(model.encoder.state_dict())
        network.freeze(FREEZES[self.protocol], keep_statistics=self.config.frozen_bn_stats == "keep")
        return network

    def kept_features(self, model):
        encoder = self.network.encoder
        frozen = FREEZES[self.protocol] >= len(encoder.stages()) and self.config.frozen_bn_stats == "keep"
        cells = COARSE_GRID**2 * encoder.out_channels
        fits = 4 * cells * (2 * len(self.train) + len(self.sets["test"])) <= CACHE
        return self.extract_all(encoder, coarse_vector) if frozen and fits else None

    def own_parameters(self):
        return {"hidden": HIDDEN, "dropout": 0.5, "frozen_bn_stats": self.config.frozen_bn_stats}

    def logits(self, inputs, noise=None):
        if self.features is not None:
            return self.network.output(self.network.represent(inputs, noise))
        return self.network(inputs, noise)

    def rate_of(self, epoch):
        return self.learning_rate * 0.1 ** (3 * epoch // self.epochs)


def cell_mean(features: Tensor) -> Tensor:
    """Features (B, C, h, w) averaged over cells, (B, C)."""
    return features.mean((2, 3))


class LinearProbe(Fit):
    """A linear classifier on the features of the frozen encoder, averaged over cells.

    With the features of 4 × 4 cells it would have 16 times as many weights, too many for a few thousand images.
    """

    schedule, weight_decay = "cosine", 0.0

    def pace(self, model):
        batch_size = self.config.batch_size or 256
        return self.config.epochs or 90, batch_size, self.config.learning_rate or 0.1 * batch_size / 256

    def classifier(self, model):
        network = nn.Linear(model.encoder.out_channels, self.dataset.num_classes)
        nn.init.normal_(network.weight, std=0.01)
        nn.init.zeros_(network.bias)
        return network

    def kept_features(self, model):
        return self.extract_all(model.encoder, cell_mean)

    def own_parameters(self):
        return {"features": "mean over cells"}

    def logits(self, inputs, noise=None):
        return self.network(inputs)

    def rate_of(self, epoch):
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


# By protocol.
FITS: dict[str, type[Fit]] = {**dict.fromkeys(FREEZES, FineTuning), "linear": LinearProbe}
