"""Runs: their files, how they stop, and that a resumed run equals an uninterrupted one."""

import contextlib
import dataclasses
import json
import math
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from accel.data import Dataset, ImageSet
from accel.models import elbo
from accel.models.autoencoder import scaled_pixels
from accel.ops import Noise
from accel.training import TrainingConfig, checkpoint, load_run, loop, step, systems, train
from accel.training.held_out import HeldOut
from accel.training.interrupt import Stopped
from accel.training.schedule import temperature
from tests.training.tiny import STEPS, assert_same_run, metrics, starting_from, tiny_config, tiny_dataset


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run of three epochs without interruption."""
    return train(tiny_config(tmp_path_factory.mktemp("runs") / "whole", epochs=3), tiny_dataset())


@pytest.fixture(autouse=True)
def usual_signals():
    """Signals act as in a terminal, even if the tests were started by a script in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def act_at_step(monkeypatch, number, action):
    """Calls action(training step) right after step `number` was taken."""
    original = step.TrainingStep.__call__

    def call(self, *batch):
        original(self, *batch)
        if self.number == number + 1:
            action(self)

    monkeypatch.setattr(step.TrainingStep, "__call__", call)


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_folder_of_a_run(whole_run):
    names = {str(path.relative_to(whole_run)) for path in snapshot(whole_run)}
    expected = {"config.json", "metrics.jsonl", "checkpoint.pt", "record.json"}
    assert names == expected | {"model/config.json", "model/weights.pt"}
    lines = [json.loads(line) for line in (whole_run / "metrics.jsonl").read_text().splitlines()]
    terms = ("total", "reconstruction", "kl_appearance", "kl_occurrence")
    expected = {"epoch", "step", "temperature", "seconds", "images_per_second", "compiled", "captured", "held_out_psnr"}
    expected |= {f"{images}_{term}" for images in ("train", "held_out") for term in terms}
    for epoch, line in enumerate(lines, start=1):
        assert line.keys() == expected | {"held_out_active_parts", "held_out_saturated_parts"}
        assert (line["epoch"], line["step"]) == (epoch, epoch * STEPS)
        assert line["temperature"] == temperature(epoch * STEPS - 1)
        assert all(math.isfinite(value) for value in line.values())
    assert len(lines) == 3


def test_loss_falls(whole_run):
    lines = metrics(whole_run)
    assert lines[2]["train_total"] < 0.9 * lines[0]["train_total"]


def test_training_terms_are_means_over_the_epochs_steps(whole_run, tmp_path, monkeypatch):
    losses = []

    def recorded(out, images, *options):
        losses.append(elbo(out, images, *options))
        return losses[-1]

    monkeypatch.setattr(systems, "elbo", recorded)
    train(tiny_config(tmp_path / "run", epochs=3), tiny_dataset())
    for epoch, line in enumerate(metrics(whole_run)):
        first = epoch * (STEPS + 1)  # each epoch ends with a batch of held-out images
        for term in systems.AutoencoderSystem.terms:
            mean = np.mean([getattr(loss, term).item() for loss in losses[first : first + STEPS]])
            assert math.isclose(line[f"train_{term}"], mean, rel_tol=1e-6)


def test_held_out_terms_are_those_of_the_saved_model(whole_run):
    model, config = load_run(whole_run)
    assert not model.training
    images = torch.tensor(tiny_dataset().test.images.transpose(0, 3, 1, 2))
    sums = dict.fromkeys(("total", "reconstruction", "kl_appearance", "kl_occurrence"), 0.0)
    error, surest = [], torch.zeros(config.num_parts)
    with torch.no_grad():
        for start in (0, 8):
            batch = images[start : start + 8]
            out = model(batch, temperature=temperature(3 * STEPS - 1), noise=Noise(config.seed, 0, start))
            loss = elbo(out, batch)
            for term in sums:
                sums[term] += getattr(loss, term).item() * len(batch) / len(images)
            error.append((model.reconstruct(batch) / 2 + 0.5 - batch / 255).square().mean((1, 2, 3)))
            surest = surest.maximum(out.occurrence.amax((0, 2, 3)))
    line = metrics(whole_run)[2]
    for term, value in sums.items():
        assert math.isclose(line[f"held_out_{term}"], value, rel_tol=1e-5)
    psnr = -10 * torch.cat(error).log10().mean().item()
    assert math.isclose(line["held_out_psnr"], psnr, rel_tol=1e-5)
    assert line["held_out_active_parts"] == (surest > 0.5).sum()


def test_measuring_leaves_the_model_in_training_mode(tmp_path):
    run = loop.open_run(tiny_config(tmp_path / "run", epochs=1), tiny_dataset())
    run.fit()
    assert run.model.training


def test_same_seed_same_bits_other_seed_other_bits(whole_run, tmp_path):
    again = train(tiny_config(tmp_path / "again", epochs=3), tiny_dataset())
    assert_same_run(whole_run, again)
    other = train(tiny_config(tmp_path / "other", epochs=3, seed=1), tiny_dataset())
    assert metrics(other) != metrics(whole_run)


@pytest.mark.parametrize(
    ("number", "by"),
    [
        (0, signal.SIGTERM),
        (1, signal.SIGINT),
        (STEPS - 1, signal.SIGTERM),
        (STEPS, signal.SIGINT),
        (2 * STEPS + 1, signal.SIGTERM),
    ],
)
def test_interrupted_run_saves_and_resumes_to_the_same_bits(whole_run, tmp_path, monkeypatch, number, by):
    config = tiny_config(tmp_path / "run", epochs=3)
    before = signal.getsignal(by)
    with monkeypatch.context() as patch:
        act_at_step(patch, number, lambda _: os.kill(os.getpid(), by))
        with pytest.raises(Stopped, match=rf"after step {number + 1} of 9 .* --resume --out .*run") as stop:
            train(config, tiny_dataset())
    assert stop.value.signal_number == by
    assert signal.getsignal(by) is before
    state = checkpoint.read(config.folder)
    assert state["epoch"] * STEPS + state["batch"] == number + 1
    assert_same_run(whole_run, train(config, tiny_dataset(), resume=True))


def test_second_signal_is_not_held_back(tmp_path, monkeypatch):
    def twice(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    act_at_step(monkeypatch, 1, twice)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(tiny_config(tmp_path / "run"), tiny_dataset())
    assert not isinstance(stop.value, Stopped)


def test_ignored_signal_stays_ignored(tmp_path, monkeypatch):
    act_at_step(monkeypatch, 1, lambda _: os.kill(os.getpid(), signal.SIGINT))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = train(tiny_config(tmp_path / "run"), tiny_dataset())
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert len(metrics(folder)) == 2


class Killed(BaseException):
    """Ends a run immediately; for its files, this is like a power failure."""


def kill(_):
    raise Killed


@pytest.mark.parametrize("number", [0, 2, 4, 8])
def test_killed_run_loses_only_what_it_had_not_saved(whole_run, tmp_path, monkeypatch, number):
    config = tiny_config(tmp_path / "run", epochs=3, checkpoint_every=0.0)
    with monkeypatch.context() as patch:
        act_at_step(patch, number, kill)
        with pytest.raises(Killed):
            train(config, tiny_dataset())
    state = checkpoint.read(config.folder)
    assert state["epoch"] * STEPS + state["batch"] == number
    assert_same_run(whole_run, train(config, tiny_dataset(), resume=True))


@pytest.mark.parametrize("victim", ["write_texts", "warn"])
def test_killed_between_the_files_of_an_epoch(whole_run, tmp_path, monkeypatch, victim):
    config = tiny_config(tmp_path / "run", epochs=3)
    with monkeypatch.context() as patch:
        original = getattr(loop.Run, victim)

        def after_first_epoch(self, *arguments):
            if self.epoch == 2:
                raise Killed
            return original(self, *arguments)

        patch.setattr(loop.Run, victim, after_first_epoch)
        with pytest.raises(Killed):
            train(config, tiny_dataset())
    assert_same_run(whole_run, train(config, tiny_dataset(), resume=True))


def test_resume_extends_a_finished_run(whole_run, tmp_path):
    config = tiny_config(tmp_path / "run", epochs=1)
    train(config, tiny_dataset())
    longer = dataclasses.replace(config, epochs=3, checkpoint_every=5.0)
    train(longer, tiny_dataset(), resume=True)
    assert_same_run(whole_run, config.folder)
    assert json.loads((config.folder / "config.json").read_text())["epochs"] == 3
    with pytest.raises(ValueError, match="has already done 3 epochs, --epochs must be at least as many"):
        train(config, tiny_dataset(), resume=True)


def test_resume_of_a_finished_run_changes_nothing(whole_run):
    before = metrics(whole_run)
    train(tiny_config(whole_run, epochs=3), tiny_dataset(), resume=True)
    assert metrics(whole_run) == before


def test_resume_refuses_options_that_would_learn_something_else(whole_run):
    before = snapshot(whole_run)
    config = tiny_config(whole_run, epochs=3, learning_rate=0.5, beta_occ=7.0)
    with pytest.raises(ValueError, match=r"--beta-occ 7\.0 instead of 1\.0, --learning-rate 0\.5 instead of 0\.001"):
        train(config, tiny_dataset(), resume=True)
    size, images = r"24 of 16x16 with 3 channels", "trained on images that differ from those of tiny"
    with pytest.raises(ValueError, match=f"{images}: training images: same number and size, {size}, but other values$"):
        train(tiny_config(whole_run, epochs=3), tiny_dataset(seed=1), resume=True)
    fewer = dataclasses.replace(tiny_dataset(), train=tiny_dataset().train.chosen(np.arange(20)))
    with pytest.raises(ValueError, match=f"{images}: training images: {size}, not 20 of 16x16 with 3 channels$"):
        train(tiny_config(whole_run, epochs=3), fewer, resume=True)
    assert snapshot(whole_run) == before


def test_existing_run_is_not_overwritten(whole_run):
    before = snapshot(whole_run)
    with pytest.raises(FileExistsError, match="already holds a run: continue it with --resume"):
        train(tiny_config(whole_run), tiny_dataset())
    assert snapshot(whole_run) == before


def test_a_run_inside_its_folder_of_images_is_refused(tmp_path, monkeypatch):
    """Also one whose data are the current folder, by default, or that is there by a link; before anything is read."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path / "photos")
    for data, out in ((".", None), (str(tmp_path / "photos"), "../link/runs/a"), ("../link", ".")):
        config = TrainingConfig(data=data, out=out, device="cpu")
        with pytest.raises(ValueError, match=r"is in the folder of images .*: choose another --out$") as caught:
            train(config)
        assert str(caught.value).startswith(str(config.folder))
    assert list((tmp_path / "photos").iterdir()) == []
    with pytest.raises(ValueError, match="photos holds no images"):  # the next check of a run elsewhere
        train(tiny_config(tmp_path / "photos2", data=str(tmp_path / "photos")))


def test_nothing_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.pt: no such file, so there is no run to resume"):
        train(tiny_config(tmp_path / "none"), tiny_dataset(), resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("term", ["kl_appearance", "reconstruction"])
def test_loss_that_is_not_finite_stops_the_run(whole_run, tmp_path, monkeypatch, term):
    config = tiny_config(tmp_path / "run", epochs=3)
    with monkeypatch.context() as patch:
        calls = []

        def poisoned(out, images, *options):
            loss = elbo(out, images, *options)
            calls.append(loss)
            if len(calls) == STEPS + 1 + 2:  # a batch of held-out images follows the first epoch
                bad = getattr(loss, term) * math.nan
                return dataclasses.replace(loss, **{term: bad, "total": loss.total + bad})
            return loss

        patch.setattr(systems, "elbo", poisoned)
        with pytest.raises(FloatingPointError, match=rf"{term} is not finite at step 4 \(epoch 2\); .*checkpoint\.pt"):
            train(config, tiny_dataset())
    assert checkpoint.read(config.folder)["epoch"] == 1
    assert_same_run(whole_run, train(config, tiny_dataset(), resume=True))


def test_held_out_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    measure = HeldOut.measure
    monkeypatch.setattr(HeldOut, "measure", lambda *arguments: measure(*arguments) | {"reconstruction": math.inf})
    config = tiny_config(tmp_path / "run")
    with pytest.raises(FloatingPointError, match=r"held_out_reconstruction is not finite at step 2 \(epoch 1\)"):
        train(config, tiny_dataset())
    assert checkpoint.read(config.folder)["epoch"] == 0


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(tmp_path, monkeypatch):
    def poison(training_step):
        next(training_step.system.model.parameters()).data[0] = math.inf

    act_at_step(monkeypatch, 1, poison)
    config = tiny_config(tmp_path / "run", checkpoint_every=0.0)
    with pytest.raises(FloatingPointError, match=r"a weight is not finite at step 1 \(epoch 1\)"):
        train(config, tiny_dataset())
    state = checkpoint.read(config.folder)
    assert state["batch"] == 1
    assert all(value.isfinite().all() for value in state["training"]["networks"].values())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["checkpoint.pt", "metrics.jsonl", "model/weights.pt"])
def test_full_disk_keeps_what_was_written(whole_run, tmp_path, file):
    config = tiny_config(tmp_path / "run", epochs=1)
    train(config, tiny_dataset())
    before = snapshot(config.folder)
    partial = config.folder / f"{file}.partial"
    partial.symlink_to("/dev/full")  # every write to it finds no space left on the device
    longer = dataclasses.replace(config, epochs=3)
    expected = rf"could not write .*/{file} \(No space left on device\); the last checkpoint is intact"
    with pytest.raises(OSError, match=expected):
        train(longer, tiny_dataset(), resume=True)
    assert not partial.is_symlink()
    after = snapshot(config.folder)
    assert after.keys() == before.keys()
    assert after[config.folder / file] == before[config.folder / file]
    assert_same_run(whole_run, train(longer, tiny_dataset(), resume=True))


@pytest.mark.parametrize(
    "damage", ["noise", "truncated", "other tensors", "older format", "not tensors", "other model"]
)
def test_foreign_or_corrupt_checkpoint(tmp_path, damage):
    config = tiny_config(tmp_path / "run", epochs=1)
    train(config, tiny_dataset())
    path = config.folder / "checkpoint.pt"
    content = path.read_bytes()
    state = checkpoint.read(config.folder)
    if damage == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "other tensors":
        torch.save(state["training"]["networks"], path)
    elif damage == "older format":
        torch.save(state | {"format": "patchvae training 0"}, path)
    elif damage == "not tensors":
        torch.save([1, 2], path)
    else:
        torch.save(state | {"training": state["training"] | {"networks": {"weight": torch.zeros(2)}}}, path)
    with pytest.raises(ValueError, match=r"run/checkpoint\.pt") as error:
        train(dataclasses.replace(config, epochs=2), tiny_dataset(), resume=True)
    assert "\n" not in str(error.value)


def test_checkpoint_holds_plain_data(whole_run):
    state = torch.load(whole_run / "checkpoint.pt", weights_only=True)
    assert state["config"] == dataclasses.asdict(tiny_config(whole_run, epochs=3))


def test_other_systems_and_shapes_train(tmp_path):
    rng = np.random.default_rng(0)
    grey = [ImageSet(rng.integers(0, 256, (12, 16, 24, 1), dtype=np.uint8)) for _ in range(2)]
    config = tiny_config(tmp_path / "run", system="beta-vae", epochs=1)
    model, _ = load_run(train(config, Dataset("grey", *grey)))
    assert type(model).__name__ == "BetaVAE"
    assert "held_out_active_parts" not in metrics(config.folder)[0]
    assert model.reconstruct(torch.zeros(1, 1, 16, 24)).shape == (1, 1, 16, 24)


def test_labels_are_learned_from_the_images_that_the_data_set_names(tmp_path):
    """Tested on Indoor67's scheme: training without labels uses all images, training with labels those of its list."""
    tiny = tiny_dataset()
    labelled = np.arange(len(tiny.train)) % 3 > 0
    marked = ImageSet(tiny.train.images, np.where(labelled, np.arange(len(tiny.train)) % 2, 2))
    test = ImageSet(tiny.test.images, np.arange(len(tiny.test)) % 2)
    dataset = Dataset("tiny", marked, test, ("a", "b", "unlisted"), supervised=labelled)
    seen = {}
    for system in ("supervised", "beta-vae"):
        run = loop.Run(tiny_config(tmp_path, system=system), dataset)
        seen[system] = torch.cat([batch.labels for batch in run.batches.epoch(0)]).unique().tolist()
    assert seen == {"supervised": [0, 1], "beta-vae": [0, 1, 2]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_missing_gpu_is_named(tmp_path):
    with pytest.raises(ValueError, match="device cuda: PyTorch sees 0 CUDA devices"):
        train(tiny_config(tmp_path / "run", device="cuda"), tiny_dataset())


def test_the_bar_says_what_is_left_of_the_whole_run(tmp_path, monkeypatch):
    notes, totals = [], []

    @contextlib.contextmanager
    def progress(total, **options):
        totals.append(total)
        yield lambda count, note: notes.append(note)

    monkeypatch.setattr(loop, "progress", progress)
    run = loop.open_run(tiny_config(tmp_path / "run"), tiny_dataset())
    run.fit()
    assert (totals, len(notes)) == ([STEPS, STEPS], 2 * STEPS)
    assert all(note.endswith(" left in total") for note in notes)
    # 50 s a step, of which four are left, and two evaluations.
    run.epoch, run.batch, run.seconds, run.between = 0, 2, 100.0, 90.0
    assert run.time_left() == "6 min left in total"


def test_files_left_out_are_listed_in_the_folder(tmp_path, capsys):
    pytest.importorskip("PIL.Image").fromarray(tiny_dataset().train.images[0]).save(tmp_path / "0.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.png").write_bytes((tmp_path / "0.png").read_bytes()[: None if number else 50])
    run = train(tiny_config(tmp_path / "run", data=str(folder), epochs=1, batch_size=3))
    (line,) = (run / "left-out.txt").read_text().splitlines()
    assert line.startswith(f"{folder / '0.png'} ")
    assert f"left out: {line}\n" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"0\.png (is not|cannot)"):
        train(tiny_config(tmp_path / "strict", data=str(folder), strict=True))


def test_observer_adds_to_the_log(tmp_path):
    run = loop.open_run(tiny_config(tmp_path / "run"), tiny_dataset())

    def observe(model, dataset, epoch):
        assert model is run.model
        assert dataset is run.dataset
        return {"held_out_height": 10.0 * epoch} if epoch == 2 else {}

    run.fit(observe)
    first, second = metrics(tmp_path / "run")
    assert "held_out_height" not in first
    assert second["held_out_height"] == 20.0


def test_information_about_the_part_is_a_term_with_its_own_weight(tmp_path):
    options = {"occurrence": "categorical", "beta_app": 3.0, "beta_occ": 2.0, "beta_identity": 0.25, "epochs": 2}
    for line in metrics(train(tiny_config(tmp_path / "run", **options), tiny_dataset())):
        for images in ("train", "held_out"):
            total, error, appearance, occurrence, identity = (
                line[f"{images}_{term}"]
                for term in ("total", "reconstruction", "kl_appearance", "kl_occurrence", "identity")
            )
            assert 0 < identity < occurrence
            expected = error + 3 * appearance + 2 * (occurrence - 0.75 * identity)
            assert math.isclose(total, expected, rel_tol=1e-5)  # sums of float32


def test_weight_of_the_information_needs_one_part_per_cell(tmp_path):
    with pytest.raises(ValueError, match=r"beta_identity 0\.5 needs categorical occurrences, got bernoulli: choose"):
        train(tiny_config(tmp_path / "run", beta_identity=0.5), tiny_dataset())


def test_renewal_and_a_falling_rate_resume_to_the_same_bits(tmp_path, monkeypatch):
    options = {"renew": 0.01, "decay": 0.5, "appearance_prior_mean": 2.0, "occurrence": "categorical", "epochs": 4}
    options |= {"encoder": "fine", "decoder": "templates", "ground": 2, "occurrence_prior": 0.3}

    def change(model):
        model.occurrence_head.bias += torch.tensor([8.0, -9.0, -9.0])

    starting_from(monkeypatch, change)  # with one part, which occurs everywhere, so that there is enough to cluster
    done = []
    for name in ("reassign_parts", "retire_duplicates"):
        original = getattr(loop, name)

        def recorded(*given, name=name, original=original):
            found = original(*given)
            done.append((name, bool(found)))
            return found

        monkeypatch.setattr(loop, name, recorded)
    whole = train(tiny_config(tmp_path / "whole", **options), tiny_dataset())
    assert [name for name, _ in done] == ["reassign_parts", "retire_duplicates", "retire_duplicates"]  # not at the end
    assert done[0] == ("reassign_parts", True)
    state = checkpoint.read(whole)
    assert (state["identities"] >= 0).any()
    rate = state["training"]["optimisers"]["model"]["param_groups"][0]["lr"]
    assert rate.item() == pytest.approx(1e-3 / 3)
    config = tiny_config(tmp_path / "run", **options)
    with monkeypatch.context() as patch:
        act_at_step(patch, 3 * STEPS + 1, lambda _: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Stopped):
            train(config, tiny_dataset())
    assert_same_run(whole, train(config, tiny_dataset(), resume=True))
    assert torch.equal(checkpoint.read(config.folder)["identities"], state["identities"])


@pytest.mark.parametrize(
    "change",
    [
        lambda identities: None,
        lambda identities: identities[:-1],
        lambda identities: identities.int(),
        lambda identities: identities + 100,
        lambda identities: identities - 1,
    ],
)
def test_identities_that_do_not_fit_are_refused(tmp_path, change):
    config = tiny_config(tmp_path / "run", renew=0.8, epochs=1)
    train(config, tiny_dataset())
    path = tmp_path / "run" / checkpoint.NAME
    state = checkpoint.read(config.folder)
    torch.save(state | {"identities": change(state["identities"])}, path)
    with pytest.raises(ValueError, match=r"its identities of parts do not fit"):
        train(dataclasses.replace(config, epochs=2), tiny_dataset(), resume=True)


@pytest.mark.parametrize("system", ["patchvae", "patchvae-gan+w"])
def test_all_networks_of_a_run_with_renewal_learn(tmp_path, system):
    run = loop.open_run(tiny_config(tmp_path / "run", renew=0.8, system=system), tiny_dataset())
    before = {name: value.clone() for name, value in run.system.networks.named_parameters()}
    run.step(*next(iter(run.batches.epoch(0))))
    for network in run.system.networks:
        moved = [name for name, value in run.system.networks.named_parameters() if not torch.equal(value, before[name])]
        assert any(name.startswith(network) for name in moved)


def test_identities_are_learned_in_training_only(tmp_path):
    run = loop.open_run(tiny_config(tmp_path / "run", renew=0.8), tiny_dataset())
    batch = next(iter(run.batches.epoch(0)))
    assert batch.labels.shape == (len(batch.images), *run.model.grid)
    run.identities[:] = 1
    batch = next(iter(run.batches.epoch(0)))
    seen = {}
    for labels in (batch.labels, None, torch.zeros(len(batch.images), dtype=torch.int64)):
        _, losses = run.system.losses(scaled_pixels(batch.images, torch.float32), labels, 0, Noise(0, 0))
        seen[None if labels is None else labels.ndim] = losses
    assert seen[3]["identity_cross_entropy"] > 0
    assert seen[3]["total"] == seen[None]["total"]  # of another name, so that the bound is not changed
    assert seen[None]["identity_cross_entropy"] == seen[1]["identity_cross_entropy"] == 0
    assert run.system.descended_loss(seen[3]) == seen[3]["total"] + seen[3]["identity_cross_entropy"]


def test_every_column_of_the_terminals_table_is_explained(tmp_path, capsys):
    train(
        tiny_config(tmp_path / "run", epochs=3, ground=2, occurrence="categorical", beta_identity=0.5), tiny_dataset()
    )
    lines = capsys.readouterr().out.splitlines()
    (number,) = (index for index, line in enumerate(lines) if line.split()[:1] == ["epoch"])
    titles = {*re.split(r" {2,}", lines[number].strip())} - {"epoch"}
    assert {"loss", "recon", "KL app", "KL occ", "PSNR", "parts", "temp", "left"} <= titles
    explained = " ".join(lines[:number])
    assert [title for title in titles - {"images/s"} if not re.search(rf"\b{title}[:,]", explained)] == []


def test_the_time_left_counts_steps_and_evaluations(tmp_path, monkeypatch):
    now, lines = [0.0], []

    def lasting(seconds, function):
        def slow(*arguments):
            now[0] += seconds
            return function(*arguments)

        return slow

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop.Run, "take_step", lasting(50, loop.Run.take_step))
    monkeypatch.setattr(loop.HeldOut, "measure", lasting(90, loop.HeldOut.measure))
    monkeypatch.setattr(loop, "say", lambda *texts, **_: lines.extend(texts))
    train(tiny_config(tmp_path / "run", epochs=3, checkpoint_every=1e9), tiny_dataset())
    assert [line.split()[-2:] for line in lines[-3:]] == [["8", "min"], ["4", "min"], ["0", "s"]]  # 50 STEPS + 90 each
