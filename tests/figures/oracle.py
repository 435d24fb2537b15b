"""A model without weights, whose parts are colours of pixels, so that every figure can be checked by hand."""

from types import SimpleNamespace

import torch

from accel.common.bottleneck import BottleneckOptions
from accel.figures.reconstructions import code_of
from accel.models.autoencoder import scaled_pixels
from accel.ops.occurrence import Bernoulli


class Oracle(torch.nn.Module):
    """Predicts that part n occurs where channel n of a cell's first pixel is bright.

    A part's appearance is two numbers: the image's mean and its largest value in the part's channel. Where
    part n occurs, channel n of the decoder's output is the first number plus a tenth of the second; each output is
    repeated 8 times.
    """

    has_decoder = has_variance = has_parts = True
    num_parts, part_dim, scale = 3, 2, 8
    bottleneck, distribution = BottleneckOptions(), Bernoulli

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def encode(self, images):
        images = scaled_pixels(images, torch.float32)
        occurrence = (images[:, :, ::8, ::8] + 1) / 2
        appearance = torch.stack([images.mean((2, 3)), images.amax((2, 3))], dim=2)
        return SimpleNamespace(
            occurrence=occurrence,
            occurrence_logits=occurrence.logit(1e-6),
            appearance_mean=appearance,
            appearance_variance=torch.full_like(appearance, 1e-4),
            code=code_of(appearance, occurrence),
        )

    def decode(self, code):
        output = code[:, ::2] + 0.1 * code[:, 1::2]
        return output.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3).clamp(-1, 1)

    def setting(self, posterior):
        return {}

    def features(self, images):
        return scaled_pixels(images, torch.float32)[:, :, ::8, ::8]

    def reconstruct(self, images):
        return scaled_pixels(images, torch.float32)

    def sample(self, count, seed=0):
        return torch.full((count, 3, 16, 16), seed / 100 - 0.5)
