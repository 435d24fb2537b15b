"""Other implementations of the same mathematics, with which the benchmarks compare.

plain_*: straightforward PyTorch from the equations. release_*: as described for the authors' release: probabilities
with 1e-7 added, weights and occurrences expanded to maps for every dimension of a part, the arithmetic rule, a
convolution for the gradient energy, and weights expanded to pixels. Random numbers come from PyTorch's generator unless
they are given: uniform (B, N, L) and normal (B, N, D).
"""

import math

import torch
import torch.nn.functional as F

EPSILON = 1e-7
PATCH = 8  # pixels along each side of a patch, which has one weight


def plain_bottleneck(
    logits,
    mean,
    log_variance,
    temperature,
    prior,
    variance="geometric",
    occurrence="bernoulli",
    uniform=None,
    normal=None,
):
    """code, m, v, KL_app, KL_occ of maps a, μ and s."""
    shape, parts = mean.shape, logits.shape[1]
    logits = logits.flatten(2).float()
    mean, log_variance = (x.unflatten(1, (parts, -1)).flatten(3) for x in (mean, log_variance))
    if occurrence == "bernoulli":
        log_p, y, kl_occurrence = plain_bernoulli(logits, temperature, prior, uniform)
    else:
        log_p, y, kl_occurrence = plain_categorical(logits, temperature, prior, uniform)
    weights = log_p.detach().softmax(-1).to(mean.dtype)
    m = torch.einsum("bnl,bndl->bnd", weights, mean).float()
    if variance == "geometric":
        log_v = torch.einsum("bnl,bndl->bnd", weights, log_variance).float()
    else:
        log_v = torch.einsum("bnl,bndl->bnd", weights, log_variance.exp()).float().log()
    v = log_v.exp()
    z = m + v.sqrt() * (torch.randn_like(m) if normal is None else normal)
    code = (z[..., None].to(mean.dtype) * y[:, :, None].to(mean.dtype)).reshape(shape)
    kl_appearance = 0.5 * (m**2 + v - 1 - log_v)
    return [code, m, v, kl_appearance.sum((1, 2)), kl_occurrence]


def plain_bernoulli(logits, temperature, prior, uniform):
    """log p, y and KL_occ of independent parts."""
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    u = torch.rand_like(logits) if uniform is None else uniform
    y = torch.sigmoid((logits + torch.log(u) - torch.log1p(-u)) / temperature)
    p = log_p.exp()
    kl_occurrence = p * (log_p - math.log(prior)) + (1 - p) * (log_not_p - math.log1p(-prior))
    return log_p, y, kl_occurrence.sum((1, 2))


def plain_categorical(logits, temperature, prior, uniform):
    """log p, y and KL_occ of cells with at most one part."""
    parts = logits.shape[1]
    logits = F.pad(logits, (0, 0, 0, 1))
    log_p = logits.log_softmax(1)
    u = torch.rand_like(logits) if uniform is None else uniform
    y = ((logits - torch.log(-torch.log(u))) / temperature).softmax(1)
    log_prior = torch.full((parts + 1, 1), math.log(prior), device=logits.device)
    log_prior[-1] = math.log1p(-parts * prior)
    return log_p[:, :-1], y[:, :-1], (log_p.exp() * (log_p - log_prior)).sum((1, 2))


def release_bottleneck(logits, mean, log_variance, temperature, prior, uniform=None, normal=None):
    """The same under the arithmetic rule, from probabilities."""
    part_dim = mean.shape[1] // logits.shape[1]
    p = torch.sigmoid(logits.float())
    weights = p.detach() / (p.detach().sum((2, 3), keepdim=True) + EPSILON)
    weights = weights.to(mean.dtype).repeat_interleave(part_dim, 1)
    m = (weights * mean).sum((2, 3)).float()
    v = (weights * log_variance.exp()).sum((2, 3)).float()
    z = m + v.sqrt() * (torch.randn_like(m) if normal is None else normal.view(m.shape))
    u = torch.rand_like(p) if uniform is None else uniform.view(p.shape)
    logistic = torch.log(u + EPSILON) - torch.log(1 - u + EPSILON)
    y = torch.sigmoid((torch.log(p + EPSILON) - torch.log(1 - p + EPSILON) + logistic) / temperature)
    code = z.to(mean.dtype)[:, :, None, None].expand_as(mean) * y.to(mean.dtype).repeat_interleave(part_dim, 1)
    kl_appearance = 0.5 * (m**2 + v - 1 - torch.log(v))
    kl_occurrence = p * torch.log((p + EPSILON) / prior) + (1 - p) * torch.log((1 - p + EPSILON) / (1 - prior))
    shape = -1, logits.shape[1], part_dim
    return [code, m.view(shape), v.view(shape), kl_appearance.sum(1), kl_occurrence.sum((1, 2, 3))]


def plain_weighted_error(reconstruction, images):
    """R of each image, weighted by gradient energy."""
    with torch.no_grad():
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        vertical = padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]
        horizontal = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
        energy = F.avg_pool2d((vertical + horizontal - 4 * images).abs().float(), PATCH)
        weights = energy / energy.mean((2, 3), keepdim=True)
    squared = (images - reconstruction).float().square()
    return [(weights * F.avg_pool2d(squared, PATCH)).sum((1, 2, 3)) * PATCH**2]


def release_weighted_error(reconstruction, images):
    """The same by a convolution, with weights expanded to pixels."""
    channels, height, width = images.shape[1:]
    with torch.no_grad():
        stencil = images.new_zeros(3, 3)  # filled on the device, since a copy from the host would have to be waited for
        stencil[1].fill_(1)
        stencil[:, 1].fill_(1)
        stencil[1, 1].fill_(-4)
        stencil = stencil.expand(channels, 1, 3, 3)
        response = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), stencil, groups=channels).abs()
        energy = F.avg_pool2d(response, PATCH)
        mask = F.interpolate(energy, scale_factor=PATCH, mode="nearest")
        mask = mask / mask.sum((2, 3), keepdim=True) * (height * width)
    return [(mask * (images - reconstruction) ** 2).sum((1, 2, 3))]
