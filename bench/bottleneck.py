"""Benchmark of the bottleneck, forward and backward with both divergences, against other implementations.

    python bench/bottleneck.py [--quick] [--sweep] [--output FILE.json] [--plot FILE.png]

Bytes that must move: forward reads a, μ and s and writes the code; backward reads the code's gradient and a (under the
arithmetic rule s as well) and writes three gradients. Categorical occurrences need no more, but a cell
couples its parts, so our kernels read a once more in each pass, write and read d_y of every part and cell in float32,
and save a few numbers per cell; these bytes are reported separately, and do not count for the limit.
"""

import functools
import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import reference
from accel import ops
from bench.common import formulations
from bench.common.harness import OURS, Case, Provider, command, run, versions
from bench.common.timing import DEVICE

TEMPERATURE = 0.5
FIELDS = "code", "appearance_mean", "appearance_variance", "kl_appearance", "kl_occurrence"
CHECKED = 2  # images that are compared with the reference

# (B, N, D, side): those of the table of others' measurements, and the sweep around the middle one.
SHAPES = [(128, 16, 6, 4), (128, 16, 6, 8), (256, 64, 16, 7), (128, 64, 16, 28)]
SWEEP = [
    *((128, 64, 16, side) for side in (1, 2, 4, 8, 14, 20, 40, 56)),
    *((128, parts, 16, 14) for parts in (1, 4, 16, 256)),
    *((128, 64, part_dim, 14) for part_dim in (1, 2, 6, 32, 64, 128)),
    *((batch, 64, 16, 14) for batch in (1, 8, 32, 512)),
]
# Rule of the variance and distribution of occurrences: the paper's own, the release's, and the main job's.
KINDS = [("geometric", "bernoulli"), ("arithmetic", "bernoulli"), ("geometric", "categorical")]
SMALL = [(16, 16, 6, 8)]  # for a CPU


CELL_STATISTICS = 5  # float32 that the kernels leave of each categorical cell


def make_case(shape, dtype, memory_format, kind):
    variance, occurrence = kind
    batch, parts, part_dim, side = shape
    channels = parts, parts * part_dim, parts * part_dim

    def inputs(seed):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        maps = [torch.randn(batch, c, side, side, generator=generator, device=DEVICE) for c in channels]
        return [m.to(dtype).contiguous(memory_format=memory_format).requires_grad_() for m in maps]

    def incoming(outputs):
        code, _, _, *divergences = outputs
        # As a loss sends them: a map for the code, one number for the divergences, nothing for m and v.
        d_code = torch.randn(code.shape, generator=torch.Generator(DEVICE).manual_seed(1), device=DEVICE)
        d_code = d_code.to(dtype).contiguous(memory_format=memory_format)
        return [d_code, None, None, *(torch.ones((), device=DEVICE, dtype=d.dtype).expand_as(d) for d in divergences)]

    def expected(leaves, incoming):
        zeros = torch.zeros(CHECKED, parts, part_dim)
        d_output = [zeros if x is None else x for x in incoming]
        arrays, d_output = ([x[:CHECKED].detach().double().cpu().numpy() for x in xs] for xs in (leaves, d_output))
        options = {"temperature": TEMPERATURE, "noise": reference.Noise()}
        options |= {"variance": variance, "occurrence": occurrence}
        output = reference.patch_bottleneck(*arrays, **options)
        gradients = reference.patch_bottleneck_gradients(reference.PatchBottleneck(*d_output), *arrays, **options)
        return [*(getattr(output, field) for field in FIELDS), *gradients]

    item = torch.empty((), dtype=dtype).element_size()
    logits, maps = (item * batch * c * side * side for c in channels[:2])
    cells = 4 * batch * side * side
    # Both passes read a once more; d_y is written and read; the numbers of a cell are written once and read twice.
    coupling = 2 * logits + 2 * cells * parts + 3 * CELL_STATISTICS * cells if occurrence == "categorical" else 0
    return Case(
        name=f"{variance}{', categorical' if coupling else ''} B{batch} N{parts} D{part_dim} {side}x{side}",
        dtype=dtype,
        memory_format=memory_format,
        inputs=inputs,
        incoming=incoming,
        expected=expected,
        forward_bytes=logits + 3 * maps,
        backward_bytes=2 * logits + (4 if variance == "arithmetic" else 3) * maps,
        facts={
            "variance": variance,
            "occurrence": occurrence,
            "batch": batch,
            "parts": parts,
            "part_dim": part_dim,
            "side": side,
            "coupling_bytes": coupling,
        },
    )


def make_providers(case, others, compiled):
    """Our implementation, and optionally the others and their compiled versions."""
    parts, part_dim = case.facts["parts"], case.facts["part_dim"]
    kind = {name: case.facts[name] for name in ("variance", "occurrence")}
    categorical = kind["occurrence"] == "categorical"
    step = torch.zeros((), dtype=torch.int64, device=DEVICE)
    noise = ops.Noise(step, step, step)
    temperature = torch.tensor(TEMPERATURE, device=DEVICE)

    def ours(leaves):
        output = ops.patch_bottleneck(*leaves, temperature=temperature, noise=noise, **kind)
        return [getattr(output, field) for field in FIELDS]

    yield Provider(OURS, ours, ours)
    if not others:
        return

    def given_draws(images):
        cells = case.facts["side"] ** 2
        uniform = ops.occurrence_noise(noise, images, parts + categorical, cells, device=DEVICE)
        return {"uniform": uniform, "normal": ops.appearance_noise(noise, images, parts, part_dim, device=DEVICE)}

    written = {"plain": functools.partial(formulations.plain_bottleneck, **kind)}
    if kind["variance"] == "arithmetic" and not categorical:  # the release's
        written["release"] = formulations.release_bottleneck
    for name, function in written.items():
        function = functools.partial(function, temperature=temperature, prior=1 / (parts + categorical))
        for version, run_it in versions(name, function, compiled).items():
            yield Provider(
                version,
                lambda leaves, f=run_it: f(*leaves),
                lambda leaves, f=run_it: f(*leaves, **given_draws(len(leaves[0]))),
            )


def grid(cuda, quick, sweep):
    """Arguments of make_case, with those of the table first; small shapes for a CPU."""
    shapes, dtypes = (SHAPES, (torch.float32, torch.bfloat16)) if cuda else (SMALL, (torch.float32,))
    formats = torch.contiguous_format, torch.channels_last
    if quick or not cuda:
        shapes, formats = shapes[::-2], formats[:1]  # the largest among them
    around = SWEEP if sweep and cuda else []
    return [
        *itertools.product(shapes, dtypes, formats, KINDS),
        *itertools.product(around, dtypes, formats, KINDS[:1]),
    ]


def reason(row):
    """Why a large shape reaches less than 70 % of the copy bandwidth, if known."""
    if row["part_dim"] <= 4:
        return "drawing noise and its logarithms cost the same for every cell however few numbers share them"
    if row["side"] ** 2 % 4 and not row["channels_last"]:
        return "rows of cells are not aligned, so loads are narrow"
    return None


def main():
    options, cases, providers = command(__doc__.splitlines()[0], make_case, make_providers, grid)
    for case in cases:
        if coupling := case.facts["coupling_bytes"]:
            share = coupling / (case.forward_bytes + case.backward_bytes)
            print(f"{case.label}: the coupling of parts moves {100 * share:.1f} % more bytes than the limit counts")
    run("Bottleneck, forward and backward, both divergences included", cases, providers, options, reason)


if __name__ == "__main__":
    main()
