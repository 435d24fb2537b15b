"""Times of the parts of one of our training steps.

    python bench/parts.py [--quick] [--only NAME] [--output FILE.json]

Parts are timed separately, forward and backward, uncompiled, on a GPU each in a CUDA graph. The lower limit of a part
is the larger of its operations at the speed of a large matrix product and its bytes at the bandwidth of a large copy,
both measured in the same run. For networks it is the sum over convolutions and linear layers, where all other
operations count as free.
"""

import argparse
import functools
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
from accel import ops
from accel.models.autoencoder import scaled_pixels
from accel.models.patchvae import _joined
from bench.common import steps
from bench.common.harness import backward
from bench.common.isolated import isolated
from bench.common.records import machine, write
from bench.common.timing import DEVICE, copy_bandwidth, matrix_speed, time_calls, time_in_graph


@dataclass(frozen=True)
class Part:
    """Something that a step does: a call that does it, its operations, its bytes, or the limits of its layers."""

    name: str
    call: object
    operations: float = 0.0
    bytes: float = 0.0
    layers: tuple[tuple[float, float], ...] = ()

    def limit(self, speed, bandwidth):
        """Seconds."""
        layers = self.layers or ((self.operations, self.bytes),)
        return sum(max(operations / speed, size / bandwidth) for operations, size in layers)


def layers_of(module, call, first):
    """(operations, bytes) of each convolution and linear map in a call of the module, forward and backward.

    Forward reads the input and writes the output; backward reads the output's gradient and the input for the weights,
    and the output's gradient again to write the input's, which the first layer of a network spares itself.
    """
    found = []

    def note(layer, inputs, output):
        spared = first and not found
        weight = layer.weight
        sums = output.numel() // weight.shape[0] if not isinstance(layer, nn.ConvTranspose2d) else inputs[0].numel()
        if isinstance(layer, nn.ConvTranspose2d):
            operations = 2 * sums * weight.numel() // weight.shape[0]
        else:
            operations = 2 * sums * weight.numel()
        passes = 2 if spared else 3
        size = (passes * inputs[0].numel() + passes * output.numel()) * output.element_size() + 3 * weight.nbytes
        found.append((passes * operations, size))

    kinds = nn.Conv2d, nn.ConvTranspose2d, nn.Linear
    hooks = [layer.register_forward_hook(note) for layer in module.modules() if isinstance(layer, kinds)]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)


def parts_of(step, configuration):
    """The parts of one of our steps of PatchVAE with a pooled head."""
    model, autocast = step.system.model, step.autocast
    batch = configuration.images(configuration.batch)
    images = scaled_pixels(batch, torch.float32)
    with torch.no_grad(), autocast:
        features = model.encoder(images)
        logits = model.occurrence_head(features)
        code = model.encode(images).code
        reconstruction = model.decoder(code)

    def both_ways(function, leaves, parameters=()):
        """A call that runs the function under the step's precision and all the way back."""
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]

        def call():
            with autocast:
                outputs = function(*leaves)
            outputs = [outputs] if torch.is_tensor(outputs) else outputs
            backward(outputs, [*leaves, *parameters], [torch.ones_like(x) for x in outputs], allow_unused=True)

        return call

    def of_module(name, module, leaves, first=False):
        function = functools.partial(module, images) if first else module
        call = both_ways(function, leaves, list(module.parameters()))
        return Part(name, call, layers=layers_of(module, call, first))

    def bottleneck(features, logits, *heads, backend=None):
        options = {"noise": ops.Noise(step.seed, step.clock), "temperature": temperature, "backend": backend}
        out = ops.pooled_patch_bottleneck(features, logits, *heads, **options)
        return [out.code, out.kl_appearance, out.kl_occurrence]

    temperature = torch.tensor(steps.TEMPERATURE, device=DEVICE)
    heads = [head.detach() for head in _joined(model.appearance_mean_head, model.appearance_log_variance_head)]
    leaves = [features, logits, *heads]
    with FlopCounterMode(display=False) as counter:
        both_ways(functools.partial(bottleneck, backend="torch"), leaves)()
    maps = 2 * features.nbytes + 4 * logits.nbytes + 2 * code.nbytes + 4 * sum(head.nbytes for head in heads)
    optimiser = step.system.optimisers["model"]
    weights = sum(p.nbytes for p in model.parameters())

    def gather():
        chosen = batch.permute(0, 2, 3, 1).index_select(0, order)
        chosen = torch.where(flips, chosen.flip(2), chosen).permute(0, 3, 1, 2)
        scaled_pixels(chosen.contiguous(memory_format=torch.channels_last), torch.float32)

    order = torch.randperm(len(batch), device=DEVICE)
    flips = (order % 2 == 0)[:, None, None, None]
    yield Part("data", gather, bytes=3 * batch.nbytes + images.nbytes)
    yield of_module("encoder", model.encoder, [], first=True)
    yield of_module("head", model.occurrence_head, [features])
    yield Part("bottleneck", both_ways(bottleneck, leaves), counter.get_total_flops(), maps)
    yield of_module("decoder", model.decoder, [code])
    loss = both_ways(lambda x: ops.weighted_squared_error(x, images), [reconstruction])
    yield Part("loss", loss, bytes=3 * reconstruction.nbytes + 2 * images.nbytes)
    yield Part("optimiser", optimiser.step, bytes=7 * weights)


def breakdown(configuration, speed, bandwidth, budget):
    """A dictionary for each part."""
    step = steps.our_step(configuration, compile=False)
    images = configuration.images(configuration.batch)
    for _ in range(2):
        step(images)  # gradients and the optimiser's state
    rows = []
    for part in parts_of(step, configuration):
        in_graph, reason = time_in_graph(lambda part=part: [part.call] * 4, budget)
        median = (in_graph or time_calls([part.call], budget))[0]
        limit = 1e3 * part.limit(speed, bandwidth)
        row = {"part": part.name, "milliseconds": median, "limit": limit, "captured": in_graph is not None}
        rows.append(row | ({"no_graph_because": reason} if reason else {}))
    return rows


def speeds():
    """(operations a second, bytes a second) of this device."""
    return matrix_speed(), copy_bandwidth()


def describe(rows):
    lines = [f"{'part':12}{'ms':>10}{'limit ms':>10}{'% of limit':>12}  in a graph"]
    for row in rows:
        share = 100 * row["limit"] / row["milliseconds"]
        how = "yes" if row["captured"] else f"no: {row['no_graph_because']}"
        lines.append(f"{row['part']:12}{row['milliseconds']:10.3f}{row['limit']:10.3f}{share:12.1f}  {how}")
    both = [sum(row[column] for row in rows) for column in ("milliseconds", "limit")]
    lines.append(f"{'sum':12}{both[0]:10.3f}{both[1]:10.3f}{100 * both[1] / both[0]:12.1f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter timings")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[c.short for c in steps.configurations()])
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the results, with device and versions")
    options = parser.parse_args()
    speed, bandwidth = isolated(speeds)
    print(
        f"{machine()['device']}: a copy moves {1e-9 * bandwidth:.1f} GB/s, a matrix product computes "
        f"{1e-12 * speed:.2f} TFLOP/s"
    )
    facts = {"copy_bytes_a_second": bandwidth, "operations_a_second": speed}
    rows, failures = [], 0
    for configuration in steps.chosen(options.only):
        row = {"case": configuration.name}
        try:
            row["parts"] = isolated(breakdown, configuration, speed, bandwidth, 0.1 if options.quick else 0.5)
            print(f"\n{configuration.name}\n{describe(row['parts'])}", flush=True)
        except (RuntimeError, TimeoutError) as error:
            row["failure"] = str(error)
            failures += 1
            print(f"\n{configuration.name} FAIL {row['failure']}", flush=True)
        rows.append(row)
        if options.output:
            write(options.output, "Parts of a training step", rows, **facts)
    if failures:
        sys.exit(f"{failures} of {len(rows)} configurations failed")


if __name__ == "__main__":
    main()
