"""A second implementation of the networks, from a dictionary of weights, with functional calls only."""

import torch.nn.functional as F


def batch_norm(x, weights, name):
    """Batch norm in evaluation mode, with the running statistics."""
    parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *parts)


def residual_block(x, weights, name, stride):
    y = F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
    y = batch_norm(y, weights, f"{name}.bn1").relu()
    y = batch_norm(F.conv2d(y, weights[f"{name}.conv2.weight"], padding=1), weights, f"{name}.bn2")
    if f"{name}.downsample.0.weight" in weights:
        x = F.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride)
        x = batch_norm(x, weights, f"{name}.downsample.1")
    return (x + y).relu()


def residual_network(x, weights, convolution, norm, stages, pools=True):
    """stages: [(name, blocks, stride of the first block), …]."""
    x = F.conv2d(x, weights[f"{convolution}.weight"], stride=2, padding=3)
    x = batch_norm(x, weights, norm).relu()
    if pools:
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    for name, blocks, stride in stages:
        for block in range(blocks):
            x = residual_block(x, weights, f"{name}.{block}", stride if block == 0 else 1)
    return x
