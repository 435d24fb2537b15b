"""The benchmarks compare like with like, and a wrong or failing provider is seen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import bottleneck, harness, training, weighted_loss

ROOT = Path(__file__).parents[2]
FORMATS = torch.contiguous_format, torch.channels_last
DTYPES = torch.float32, torch.bfloat16


def cases():
    for dtype in DTYPES:
        for memory_format in FORMATS:
            for variance in ("geometric", "arithmetic"):
                case = bottleneck.make_case((2, 4, 3, 4), dtype, memory_format, variance)
                yield case, list(bottleneck.make_providers(case, True, False))
            case = weighted_loss.make_case((2, 16), dtype, memory_format)
            yield case, list(weighted_loss.make_providers(True, False))


@pytest.mark.parametrize(
    ("case", "provider"), [pytest.param(c, p, id=f"{c.label} {p.name}") for c, ps in cases() for p in ps]
)
def test_every_provider_computes_what_the_reference_does(case, provider):
    harness.check(case, provider)


def test_a_provider_that_is_wrong_fails():
    case = weighted_loss.make_case((2, 16), torch.float32, torch.contiguous_format)

    def wrong(leaves):
        return [1.01 * ((leaves[0] - leaves[1]) ** 2).sum((1, 2, 3))]

    row = harness.measure(case, harness.Provider("wrong", wrong, wrong), 1e9, 0.0)
    assert "differs from the reference" in row["failure"]
    assert "FAIL" in harness.describe(row)


def test_bytes_are_counted_as_the_mathematics_must_move_them():
    # At 3.0 TB/s: B 128, N 64, D 16, 28 × 28 in float32 under the arithmetic rule 0.984 ms; 224 px, B 256 0.257 ms.
    case = bottleneck.make_case((128, 64, 16, 28), torch.float32, torch.contiguous_format, "arithmetic")
    assert (case.forward_bytes + case.backward_bytes) / 3.0e12 == pytest.approx(0.984e-3, rel=0.01)
    case = weighted_loss.make_case((256, 224), torch.float32, torch.contiguous_format)
    assert (case.forward_bytes + case.backward_bytes) / 3.0e12 == pytest.approx(0.257e-3, rel=0.01)


def test_needed_memory_is_the_inputs_the_outputs_and_the_gradients_of_both():
    case = bottleneck.make_case((8, 4, 3, 16), torch.float32, torch.contiguous_format, "geometric")
    provider = next(bottleneck.make_providers(case, False, False))
    logits, maps, numbers = (4 * 8 * size for size in (4 * 256, 12 * 256, 12))
    # a and its gradient; μ, s, the code and their gradients; m and v; divergences and theirs are a few numbers.
    expected = 2 * logits + 6 * maps + 2 * numbers
    needed = 1e6 * harness.memory(case, provider, case.inputs(0))["needed_megabytes"]
    assert expected <= needed < expected + 200


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes minutes on a GPU, where the table is larger")
@pytest.mark.parametrize("name", ["bottleneck", "weighted_loss"])
def test_the_command_runs_on_a_cpu_and_writes_its_results(name, tmp_path):
    output = tmp_path / "results.json"
    command = [sys.executable, f"bench/{name}.py", "--quick", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "No CUDA device" in done.stdout
    document = json.loads(output.read_text())
    assert {"device", "torch", "commit", "date", "command", "copy_bytes_a_second"} <= document.keys()
    assert len({row["provider"] for row in document["results"]}) == 3
    assert all(row["both"][0] > 0 for row in document["results"])


TINY = training.Configuration(16, 4, 3, 2, "small")


@pytest.mark.parametrize("formulation", ["plain", "release"])
@pytest.mark.parametrize("tuned", [False, True])
def test_plain_steps_begin_with_the_loss_of_patchvae(formulation, tuned, monkeypatch):
    # A tuned step without its compiler and its graph, which need a GPU, still has its precision and memory format.
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(training, "Captured", lambda function, device: function)
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, **options: torch.optim.SGD(parameters, lr=lr))
    step, images = training.PlainStep(TINY, formulation, tuned), TINY.images(4)
    training.check_plain(step, images)
    before = step.model.encoder.conv1.weight.detach().clone()
    step(images)
    assert not torch.equal(step.model.encoder.conv1.weight, before)


def test_a_training_step_with_another_loss_fails():
    class Other(training.PlainStep):
        def losses(self, images, **draws):
            return 1.1 * super().losses(images, **draws)

    def make():
        return Other(TINY, "plain", False)

    row = training.measure(TINY, "other", make, training.check_plain, 0.0)
    assert "the first loss is" in row["failure"]
    assert "FAIL" in training.describe(row, None)


def test_limits_count_a_convolution_by_hand():
    layer = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    images = torch.randn(2, 3, 4, 4)
    operations = 2 * (2 * 16) * 8 * 3 * 9
    inside = (3 * images.numel() + 3 * 2 * 8 * 16 + 3 * layer.weight.numel()) * 4
    assert training.layers_of(layer, lambda: layer(images), first=False) == ((3 * operations, inside),)
    transposed = torch.nn.ConvTranspose2d(8, 3, 4, 2, padding=1, bias=False)
    ((operations, _),) = training.layers_of(transposed, lambda: transposed(torch.randn(2, 8, 4, 4)), first=True)
    assert operations == 2 * 2 * (2 * 16) * 8 * 3 * 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes minutes on a GPU, where the table is larger")
def test_training_steps_on_a_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "SMALL", [TINY])
    output = tmp_path / "training.json"
    monkeypatch.setattr(sys, "argv", ["training.py", "--quick", "--output", str(output), "--profile", str(tmp_path)])
    training.main()
    assert "sum " in capsys.readouterr().out
    document = json.loads(output.read_text())
    assert {"ours", "plain", "release", "ours, beta-vae"} <= {row["provider"] for row in document["results"]}
    assert all(row["images_a_second"] > 0 for row in document["results"])
    parts = document["parts"][TINY.name]
    assert [row["part"] for row in parts] == [
        "data", "encoder", "head", "bottleneck", "decoder", "loss", "optimiser",
    ]  # fmt: skip
    assert all(row["milliseconds"] > 0 and row["limit"] > 0 for row in parts)
    assert len(list(tmp_path.glob("16-px*.json"))) == 1


def test_a_whole_run_is_timed_and_a_failing_one_is_no_figure():
    assert training.whole_run(32, 16, 1, "--encoder", "small", "--device", "cpu", "--batch-size", "16") > 0
    with pytest.raises(subprocess.CalledProcessError):
        training.whole_run(32, 16, 1, "--batch-size", "0")
