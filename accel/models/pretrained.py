"""Saving and loading models as folders: config.json has the arguments of the constructor, weights.pt the tensors."""

import inspect
import json
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from accel.common.describing import in_one_line, printable
from accel.common.files import read_json, write_whole
from accel.common.spelling import nearest

from .storage import load_safetensors, load_tensors, safetensors_to_bytes, tensors_to_bytes

FORMAT = 1  # to be increased if a reader of this version could misunderstand new files
CONFIG, WEIGHTS, SAFETENSORS = "config.json", "weights.pt", "model.safetensors"
PACKAGED = Path(__file__).parent / "weights"  # a folder for each model that comes with the package


def packaged(system: str | None = None) -> list[str]:
    """The names of the models, by default of every system, that come with the package."""
    return sorted(
        path.parent.name
        for path in PACKAGED.glob(f"*/{CONFIG}")
        if system in (None, read_json(path, dict).get("system"))
    )


class Pretrained(nn.Module):
    """A module that is saved together with the arguments of its constructor, which are in `config`."""

    config: dict[str, object]
    former_names: ClassVar[dict[str, str]] = {}  # of weights in older files: a name's beginning, and what it is now

    def save_pretrained(self, folder: str | Path, *, safetensors: bool = False) -> None:
        """Writes config.json and weights.pt into `folder`, which is created if needed, all of them atomically.

        safetensors: also write model.safetensors, for other programs. Otherwise, that of an earlier model is removed.

        Raises OSError, for example if the disk is full; a model that was saved there before is then still intact.
        Raises ImportError with the command that installs the package safetensors if it is requested but missing.
        """
        folder = Path(folder)
        description = {"format": FORMAT, "system": type(self).__name__, "arguments": self.config}
        weights = {name: value.cpu() for name, value in self.state_dict().items()}
        files = {
            folder / CONFIG: (json.dumps(description, indent=2) + "\n").encode(),
            folder / WEIGHTS: tensors_to_bytes(weights),
        }
        if safetensors:
            files[folder / SAFETENSORS] = safetensors_to_bytes(weights)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(files)
        if not safetensors:
            (folder / SAFETENSORS).unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Loads a model from a folder that `save_pretrained` or a training run wrote; returns it in evaluation mode.

        folder: the weights are read from weights.pt or, if there is none, from model.safetensors. If there is no such
        folder, the name of a model that comes with the package: "parts", which was trained on the generated data set
        `parts` (accel/models/weights/parts/README.md).

        No code in the files is executed. Raises FileNotFoundError if a file is missing; ValueError if a file is
        damaged, belongs to another system or format, or if weights and configuration do not fit; and ImportError with
        the command that installs the package safetensors if it is needed but missing.
        """
        path = Path(folder)
        if not path.is_dir():
            if str(folder) not in packaged():
                named = ", ".join(packaged(cls.__name__))
                also = f", or the name of a {cls.__name__} that comes with the package: {named}" if named else ""
                raise FileNotFoundError(f"{folder}: no such folder, expected one that save_pretrained wrote{also}")
            path = PACKAGED / folder
        if not any((path / name).exists() for name in (WEIGHTS, SAFETENSORS)) and (path / "model").is_dir():
            path = path / "model"  # of a run
        description, stored = path / CONFIG, path / WEIGHTS
        arguments = cls._read_arguments(description)
        if not stored.exists() and (path / SAFETENSORS).exists():
            stored = path / SAFETENSORS
        weights = load_safetensors(stored) if stored.name == SAFETENSORS else load_tensors(stored)
        return cls._restore(arguments, description, weights, stored).to(device)

    @classmethod
    def _read_arguments(cls, path: Path) -> dict[str, object]:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, expected the one that save_pretrained wrote")
        description = read_json(path, dict)
        if not isinstance(description.get("arguments"), dict):
            raise ValueError(f"{path}: not the configuration of a model")
        if description.get("format") != FORMAT:
            written = printable(description.get("format"))
            raise ValueError(f"{path}: written in format {written}, this version reads format {FORMAT}")
        if description.get("system") != cls.__name__:
            raise ValueError(f"{path}: holds a {printable(description.get('system'))}, not a {cls.__name__}")
        parameters = inspect.signature(cls).parameters
        known = list(parameters)
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())  # a subclass that passes them on
        for name in description["arguments"]:
            if name not in known and not takes_any:
                raise ValueError(
                    f"{path}: {cls.__name__} has no argument {name!r}, the nearest is {nearest(name, known)!r}"
                )
        return description["arguments"]

    @classmethod
    def _present_name(cls, name: str) -> str:
        module, dot, rest = name.partition(".")
        return cls.former_names.get(module, module) + dot + rest

    @classmethod
    def _restore(cls, arguments: dict[str, object], described: Path, weights: object, stored: Path) -> Self:
        """A model with these arguments (from the file `described`) and weights (from the file `stored`)."""
        try:
            with torch.device("meta"):  # no memory, and no draw from the global random generator
                model = cls(**arguments)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # also for sizes that are too large
            raise ValueError(f"{described}: {in_one_line(error)}") from error
        if not isinstance(weights, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
        ):
            raise ValueError(f"{stored}: expected one dictionary of tensors")
        weights = {cls._present_name(name): _dense(value) for name, value in weights.items()}
        own = model.state_dict()
        missing, foreign = own.keys() - weights.keys(), weights.keys() - own.keys()
        if missing:
            raise ValueError(f"{stored}: does not fit the configuration, {_first(missing)} is missing")
        if foreign:
            raise ValueError(f"{stored}: does not fit the configuration, it holds the unknown {_first(foreign)}")
        for name, value in weights.items():
            kinds = [(tensor.shape, tensor.is_floating_point(), tensor.is_complex()) for tensor in (value, own[name])]
            if kinds[0] != kinds[1]:
                got, expected = (f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (value, own[name]))
                raise ValueError(f"{stored}: does not fit the configuration, {name!r} is {got}, not {expected}")
            if not value.isfinite().all():
                raise ValueError(f"{stored}: {name!r} holds numbers that are not finite")
        model.load_state_dict(weights, assign=True)
        return model.eval()


def _dense(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is not contiguous, since the kernels of optimisers require that."""
    formats = [torch.contiguous_format] + [torch.channels_last] * (tensor.ndim == 4)
    return tensor if any(tensor.is_contiguous(memory_format=one) for one in formats) else tensor.contiguous()


def _first(names: set[str]) -> str:
    rest = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"{min(names, key=str)!r}{rest}"
