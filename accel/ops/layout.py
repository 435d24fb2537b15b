"""Memory layout of maps."""

import torch
from torch import Tensor


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Channels-last if a cell's channels are adjacent in memory, as in a slice of such a tensor; else contiguous."""
    if tensor.is_contiguous() or tensor.stride(1) != 1:
        return torch.contiguous_format
    return torch.channels_last


def empty_map(like: Tensor, channels: int, dtype: torch.dtype, format: torch.memory_format) -> Tensor:
    """An uninitialised map (B, channels, h, w) with the images, grid and device of another map."""
    images, _, height, width = like.shape
    return torch.empty(images, channels, height, width, dtype=dtype, device=like.device, memory_format=format)
