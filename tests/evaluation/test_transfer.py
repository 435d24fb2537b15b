"""The transfer protocol: frozen layers do not change by a bit, and nothing is selected on the test set."""

import copy
import dataclasses
import functools
import json
import signal

import numpy as np
import pytest
import torch

from accel import cli
from accel.data import Dataset, ImageSet
from accel.evaluation import fine_tuning, splits
from accel.evaluation.fine_tuning import FITS, Fit
from accel.evaluation.probes import knn
from accel.evaluation.splits import split
from accel.evaluation.transfer import transfer
from accel.evaluation.transfer_records import record, results
from accel.models import Classifier
from accel.training import load_run, train
from accel.training.compilation import Compiled
from accel.training.interrupt import Stopped
from accel.training.protocols import FREEZES, TransferConfig
from accel.training.step import choose_execution
from tests.support import assert_close
from tests.training.tiny import tiny_config, tiny_dataset


def coloured(train_images=60, test_images=20, classes=3, seed=0):
    """Noise with a different mean colour in each class."""
    rng = np.random.default_rng(seed)

    def images(count):
        labels = np.arange(count) % classes
        colours = np.eye(classes, 3)[labels][:, None, None] * 120
        noise = rng.integers(0, 128, (count, 16, 16, 3))
        return ImageSet((noise + colours).astype(np.uint8), labels.astype(np.int64))

    return Dataset("coloured", images(train_images), images(test_images))


def config(**options):
    return TransferConfig(**{"device": "cpu", "epochs": 2, "batch_size": 16} | options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tiny_config(tmp_path_factory.mktemp("runs") / "run", epochs=1), tiny_dataset())


@pytest.fixture
def run(trained, tmp_path):
    """A separate run folder with the trained model."""
    folder = tmp_path / "run"
    load_run(trained)[0].save_pretrained(folder / "model")
    (folder / "config.json").write_text((trained / "config.json").read_text())
    return folder


def classifier(folder, protocol):
    return Classifier.from_pretrained(folder / "transfer" / protocol / "model")


def without_seconds(entry):
    return {name: value for name, value in entry.items() if name != "seconds"}


@pytest.mark.parametrize("protocol", FREEZES)
def test_what_is_frozen_does_not_change_by_one_bit_and_the_rest_does(run, protocol):
    transfer(run, protocol, config(), coloured())
    before, after = load_run(run)[0].encoder, classifier(run, protocol).encoder
    for number, (old, new) in enumerate(zip(before.stages(), after.stages(), strict=True)):
        for one, other in zip(old, new, strict=True):
            same = [
                torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
            ]
            assert all(same) if number < FREEZES[protocol] else not any(same)


def test_statistics_of_frozen_batch_norms_move_on_request_alone(run):
    transfer(run, "conv5", config(frozen_bn_stats="update"), coloured())
    before, after = load_run(run)[0].encoder, classifier(run, "conv5").encoder
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before.buffers(), after.buffers(), strict=True))


def test_kept_features_teach_what_images_teach(run, monkeypatch):
    kept = transfer(run, "conv5", config(), coloured())
    weights = classifier(run, "conv5").state_dict()
    monkeypatch.setattr(fine_tuning, "CACHE", 0)
    computed = transfer(run, "conv5", config(), coloured())
    for name, value in classifier(run, "conv5").state_dict().items():
        # Six steps of SGD on features that convolutions of other batch sizes round differently.
        assert_close(name, value.float(), weights[name].float(), relative=1e-5)
    assert without_seconds(kept) == without_seconds(computed)


@pytest.mark.parametrize("protocol", [*FREEZES, "linear", "knn"])
def test_colours_are_recognised_the_same_way_twice(run, protocol):
    data = coloured()
    entry = transfer(run, protocol, config(epochs=6, learning_rate=0.05, neighbours=5), data)
    assert entry["last_top1"] > 80
    assert without_seconds(transfer(run, protocol, config(epochs=6, learning_rate=0.05, neighbours=5), data)) == (
        without_seconds(entry)
    )
    assert [without_seconds(old) for old in results(run)] == [without_seconds(entry)]
    assert "top5" not in entry  # of three classes


def test_no_choice_depends_on_the_test_images(run):
    data = coloured()
    other = dataclasses.replace(data, test=coloured(seed=7, test_images=33).test)
    outcomes = []
    for dataset in (data, other):
        entry = transfer(run, "conv3", config(epochs=4), dataset)
        outcomes.append((entry["selected_epoch"], classifier(run, "conv3").state_dict()))
    assert outcomes[0][0] == outcomes[1][0]
    torch.testing.assert_close(outcomes[0][1], outcomes[1][1], rtol=0, atol=0)


def test_selected_accuracy_is_that_of_the_epoch_that_did_best_on_the_held_out_tenth(run, monkeypatch):
    script = iter([10.0, 30.0, 20.0])
    seen = {}
    original = Fit.accuracies

    def accuracies(self, name):
        if name == "validation":
            value = next(script)
            seen[self.epoch] = original(self, "test")[0]
            return value, value
        return original(self, name)

    monkeypatch.setattr(Fit, "accuracies", accuracies)
    entry = transfer(run, "conv1", config(epochs=3), coloured())
    assert entry["selected_epoch"] == 2
    assert entry["selected_top1"] == seen[2]
    assert entry["last_top1"] == seen[3]


def test_sets_do_not_overlap_and_take_only_what_is_for_learning():
    data = dataclasses.replace(coloured(), supervised=np.arange(60) >= 10)
    sets = split(data)
    train, tenth = set(sets["train"].indices), set(sets["validation"].indices)
    assert not train & tenth
    assert train | tenth == set(range(10, 60))
    assert len(tenth) == 5
    images, labels = next(sets["validation"].batches(torch.device("cpu")))
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1), data.train.images[sorted(tenth)])
    np.testing.assert_array_equal(labels, data.train.labels[sorted(tenth)])


def test_step_sizes_fall_by_ten_after_each_third(run):
    def rates(protocol, **options):
        model, trained_with = load_run(run)
        cpu, options = torch.device("cpu"), TransferConfig(device="cpu", **options)
        fit = FITS[protocol](model, run, protocol, options, coloured(), cpu, choose_execution(trained_with, cpu))
        return [fit.rate_of(epoch) for epoch in range(fit.epochs)]

    paper = rates("conv5")
    assert paper[:30] == [1e-2] * 30
    assert np.allclose(paper[30:60], 1e-3)
    assert np.allclose(paper[60:], 1e-4)
    assert len(paper) == 90
    assert np.allclose(rates("conv5", epochs=3), [1e-2, 1e-3, 1e-4])
    linear = rates("linear", batch_size=512)
    assert len(linear) == 90
    assert linear[0] == 0.2
    assert linear[45] == pytest.approx(0.1)


def test_nearest_neighbours_vote_as_written_out(monkeypatch):
    monkeypatch.setattr(splits, "BATCH", 7)  # the nearest images are in several batches
    rng = np.random.default_rng(1)
    bank, queries = rng.normal(size=(30, 4)), rng.normal(size=(9, 4))
    labels, answers = rng.integers(0, 7, 30), rng.integers(0, 7, 9)

    class Fixed(torch.nn.Module):
        """Returns an image's first pixels as two features of two cells, which count cell by cell."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images):
            return images[:, 0, 0, :4].reshape(-1, 2, 1, 2)

    def stored(features):  # bytes whose value in [−1, 1] has the features' direction
        images = np.zeros((len(features), 8, 8, 3), np.uint8)
        images[:, 0, :4, 0] = np.rint((features / np.abs(features).max() + 1) * 127.5)
        return images

    sets = split(Dataset("d", ImageSet(stored(bank), labels), ImageSet(stored(queries), answers)))
    got = knn(Fixed(), sets["both"], sets["test"], 7, TransferConfig(neighbours=25, knn_temperature=0.2))

    bank, queries = (stored(x)[:, 0, :4, 0] / 127.5 - 1 for x in (bank, queries))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)]
    hits = np.zeros(2)
    for query, answer in zip(unit[1], answers, strict=True):
        cosines = unit[0] @ query
        nearest = np.argsort(-cosines)[:25]  # so many that every class has votes
        votes = [np.exp(cosines[nearest] / 0.2)[labels[nearest] == label].sum() for label in range(7)]
        ranking = np.argsort(-np.array(votes), kind="stable")
        hits += [ranking[0] == answer, answer in ranking[:5]]
    assert got == pytest.approx(tuple(100 * hits / 9))


@pytest.mark.parametrize("protocol", ["conv1", "conv5", "linear"])
def test_an_interrupted_transfer_goes_on_to_the_same_bits(run, protocol, monkeypatch):
    options, data = config(epochs=4), coloured()
    whole = transfer(run, protocol, options, data)
    weights = None if protocol == "linear" else classifier(run, protocol).state_dict()
    (run / "transfer.json").unlink()
    original = Fit.train_epoch

    def train_epoch(self):
        original(self)
        if self.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patched:
        patched.setattr(Fit, "train_epoch", train_epoch)
        with pytest.raises(Stopped, match="stopped after epoch 2 of 4"):
            transfer(run, protocol, options, data)
    signal.signal(signal.SIGINT, before)
    assert results(run) == []

    epochs = []
    monkeypatch.setattr(Fit, "train_epoch", lambda self: (epochs.append(self.epoch), original(self)))
    assert without_seconds(transfer(run, protocol, options, data)) == without_seconds(whole)
    assert epochs == [2, 3]
    if weights is not None:
        torch.testing.assert_close(classifier(run, protocol).state_dict(), weights, rtol=0, atol=0)
    assert not (run / "transfer" / protocol / "checkpoint.pt").exists()


def test_an_interrupted_transfer_begins_anew_where_the_run_has_learned_more(run, monkeypatch):
    options, data = config(epochs=2), coloured()

    class Interrupted(Exception):
        pass

    def run_once(self):
        self.train_epoch()
        self.save()
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(Fit, "run", run_once)
        with pytest.raises(Interrupted):
            transfer(run, "conv5", options, data)
    model, _ = load_run(run)
    with torch.no_grad():
        model.encoder.conv1.weight += 1
    model.save_pretrained(run / "model")
    transfer(run, "conv5", options, data)
    torch.testing.assert_close(
        classifier(run, "conv5").encoder.state_dict(), model.encoder.state_dict(), rtol=0, atol=0
    )


def test_a_record_replaces_its_like_only(tmp_path):
    entry = {"protocol": "conv1", "data": "d", "seed": 0, "epochs": 1, "parameters": {"k": 1}, "last_top1": 1.0}
    others = [entry | {name: value} for name, value in (("protocol", "conv3"), ("seed", 1), ("parameters", {"k": 2}))]
    for one in [entry, *others, entry | {"last_top1": 2.0}]:
        record(tmp_path, one)
    assert results(tmp_path) == [*others, entry | {"last_top1": 2.0}]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda d: dataclasses.replace(d, train=ImageSet(d.train.images)),
            "training images of coloured have no labels",
        ),
        (lambda d: dataclasses.replace(d, test=ImageSet(d.test.images)), "test images of coloured have no labels"),
        (
            lambda d: dataclasses.replace(d, train=ImageSet(d.train.images[:, :8, :8], d.train.labels)),
            "images are 8x8 with 3 channels, the run's model takes 16x16 with 3",
        ),
    ],
)
def test_unfit_data_is_refused_in_a_sentence(run, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        transfer(run, "conv5", config(), change(coloured()))
    assert results(run) == []


@pytest.mark.parametrize("protocol", ["conv1", "conv5", "linear", "knn"])
def test_the_untrained_encoder_is_that_of_a_run_of_no_epochs(run, tmp_path, protocol):
    data, options = coloured(), config(epochs=4, learning_rate=0.05, neighbours=5)
    both = transfer(run, protocol, options, data, untrained=True)
    alone = transfer(run, protocol, options, data)
    assert both["last_top1"] == alone["last_top1"]
    assert not [key for key in alone if "untrained" in key]
    never = train(tiny_config(tmp_path / "never", epochs=0), tiny_dataset())
    expected = transfer(never, protocol, options, data)
    assert both["untrained_top1"] == expected["last_top1"]
    assert both["untrained_selected_top1"] == expected["selected_top1"]


def test_the_command_prints_what_it_depends_on(run, tmp_path, capsys):
    data = coloured(classes=6)
    arrays = {f"{part}_images": getattr(data, part).images for part in ("train", "test")}
    arrays |= {f"{part}_labels": getattr(data, part).labels for part in ("train", "test")}
    np.savez(tmp_path / "coloured.npz", **arrays)
    words = ["transfer", str(run), "--data", str(tmp_path / "coloured.npz"), "--device", "cpu", "--epochs", "1"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    for protocol in FREEZES:
        assert f"{protocol} on {tmp_path / 'coloured.npz'}: top-1 " in out
    assert "learning rate 0.01" in out
    assert "; top-5 " in out
    entries = json.loads((run / "transfer.json").read_text())["results"]
    for entry in entries:
        for key in ("untrained_top1", "untrained_selected_top1", "untrained_top5"):
            assert f"(untrained encoder {entry[key]:.2f} %)" in out
    assert out.count("(untrained encoder ") == 3 * len(FREEZES)
    assert [entry["protocol"] for entry in entries] == list(FREEZES)
    assert cli.main([*words, "--freeze", "conv1", "--no-untrained"]) == 0
    assert "untrained" not in capsys.readouterr().out

    for arguments, sentence in [
        ([str(run), "--probe", "knn", "--epochs", "3"], "--epochs has no effect on knn"),
        ([str(run), "--neighbours", "3"], "--neighbours has no effect on conv1, conv3, conv5"),
        ([str(tmp_path / "none"), "--probe", "knn"], "is not the folder of a run: it has no config.json"),
        ([str(run), "--freeze", "conv2"], "--freeze must be one of conv1, conv3, conv5, got 'conv2'"),
    ]:
        assert cli.main(["transfer", *arguments]) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["conv3", "linear"])
def test_a_compiled_transfer_learns_what_an_uncompiled_one_does(run, monkeypatch, protocol):
    # Traced as for a GPU, but run by PyTorch's own kernels: generated C++ takes a minute to compile.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model, trained_with = load_run(run)
    cpu, options = torch.device("cpu"), TransferConfig(device="cpu", epochs=2)
    fits = []
    for compiled in (False, True):
        execution = dataclasses.replace(choose_execution(trained_with, cpu), compile=compiled)
        fit = FITS[protocol](copy.deepcopy(model), run, protocol, options, coloured(), cpu, execution)
        fit.train_epoch()
        fits.append(fit)
    assert isinstance(fits[1].step, Compiled)
    assert not fits[1].step.failed
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    for (name, got), expected in zip(
        fits[1].network.state_dict().items(), fits[0].network.state_dict().values(), strict=True
    ):
        # Sums in another order, over a few steps.
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_a_transfer_takes_the_threads_of_its_run(tmp_path):
    before = torch.get_num_threads()
    try:
        folder = train(tiny_config(tmp_path / "run", epochs=1, threads=1), tiny_dataset())
        torch.set_num_threads(2)
        transfer(folder, "knn", TransferConfig(device="cpu"), tiny_dataset())
        assert torch.get_num_threads() == 1
        replaced = (folder / "config.json").read_text().replace('"threads": 1', '"threads": 9')
        (folder / "config.json").write_text(replaced)
        transfer(folder, "knn", TransferConfig(device="cpu"), tiny_dataset())
        assert torch.get_num_threads() == 1  # of which there may be no more here
    finally:
        torch.set_num_threads(before)
