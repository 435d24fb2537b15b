"""Reads checkpoints of the authors' code (github.com/kampta/PatchVAE)."""

from argparse import Namespace
from pathlib import Path

from torch import Tensor

from accel.common.describing import printable

from .storage import load_tensors

# The release's prefixes of names and ours. 'ouput' is the release's spelling; its heads are Sequentials of one module.
NAMES = {
    "features.0.": "encoder.conv1.",
    "features.1.": "encoder.bn1.",
    "features.4.": "encoder.layer1.",
    "features.5.": "encoder.layer2.",
    "vis_mean_logit.0.": "occurrence_head.",
    "app_mu.0.": "appearance_mean_head.",
    "app_logvar.0.": "appearance_log_variance_head.",
    "decoder.input-conv.": "decoder.input.conv.",
    "decoder.input-batchnorm.": "decoder.input.bn.",
    "decoder.pyramid-256-128-conv.": "decoder.pyramid.0.conv.",
    "decoder.pyramid-128-batchnorm.": "decoder.pyramid.0.bn.",
    "decoder.pyramid-128-64-conv.": "decoder.pyramid.1.conv.",
    "decoder.pyramid-64-batchnorm.": "decoder.pyramid.1.bn.",
    "decoder.ouput-conv.": "decoder.output.",
}
SUPPORTED = {"arch": "patchy", "encoder_arch": "resnet", "decoder_arch": "pyramid", "scale": 8}


def read_release(path: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    """(arguments of PatchVAE, its state dict) from a release checkpoint: {'args': Namespace, 'vae_dict': …}.

    Besides plain data, only argparse.Namespace objects are allowed, which merely hold attributes.
    Raises FileNotFoundError, or ValueError if the file is damaged, is not such a checkpoint, or contains a model that
    differs from the preset "release".
    """
    checkpoint = load_tensors(path, classes=[Namespace])
    if not isinstance(checkpoint, dict) or not {"args", "vae_dict"} <= checkpoint.keys():
        raise ValueError(f"{path}: not a checkpoint of the authors' release, which contains 'args' and 'vae_dict'")
    options, state = checkpoint["args"], checkpoint["vae_dict"]
    if not isinstance(options, Namespace):
        raise ValueError(f"{path}: not a checkpoint of the authors' release, its 'args' is not an argparse.Namespace")
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path}: not a checkpoint of the authors' release, its 'vae_dict' is not a dictionary of tensors"
        )
    options = vars(options)
    for name, expected in SUPPORTED.items():
        if options.get(name) != expected:
            given = printable(repr(options.get(name)))
            raise ValueError(f"{path}: its {name} is {given}, only {expected!r} can be read")
    for name in ("size", "num_parts", "hidden_size", "py"):
        if name not in options:
            raise ValueError(f"{path}: its args lack {name!r}")
    weights = {}
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: a weight has the name {printable(name)}, expected text")
        # A 1×1 transposed convolution is a 1×1 convolution with inputs and outputs exchanged.
        transposed = name == "decoder.input-conv.weight" and value.ndim == 4
        weights[_our_name(name, path)] = value.transpose(0, 1).contiguous() if transposed else value
    arguments = {
        "image_size": options["size"],
        "num_parts": options["num_parts"],
        "part_dim": options["hidden_size"],
        "occurrence_prior": options["py"],
        "encoder": "release",
        "variance": "arithmetic",
    }
    return arguments, weights


def _our_name(name: str, path: Path) -> str:
    for theirs, ours in NAMES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise ValueError(f"{path}: holds {name!r}, which no model of the release has")
