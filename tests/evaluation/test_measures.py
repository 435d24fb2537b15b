"""All measures of a run are plain numbers, with the settings of their measurement."""

import json

import numpy as np
import pytest
import torch

from accel.data import Dataset, ImageSet, draw_parts
from accel.evaluation import discover, quality
from accel.evaluation.frechet import Moments, encoder_features, frechet_distance
from accel.evaluation.measures import (
    OBSERVED,
    classifier_folder,
    measure,
    measure_reconstructions,
    measures_table,
    observe,
)
from accel.evaluation.occurrences import occurrence_maps
from accel.models import BetaVAE, Classifier, PatchVAE


@pytest.fixture(scope="module")
def dataset():
    return Dataset(
        "parts", draw_parts(60), draw_parts(40, first_image=500), part_names=tuple("abcdefgh"), class_names=None
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PatchVAE(num_parts=4, part_dim=2, encoder="small")


def test_reconstructions_are_measured_with_what_has_to_be_said(model, dataset):
    images = dataset.test.images
    psnr, ssim, frechet = measure_reconstructions(model, images, [encoder_features(model)])
    assert {key: psnr[key] for key in ("name", "unit", "count", "range", "resize")} == {
        "name": "psnr",
        "unit": "dB",
        "count": 40,
        "range": "[0, 1]",
        "resize": "none",
    }
    with torch.no_grad():
        original = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) / 127.5 - 1
        reconstruction = model.eval().reconstruct(original)
    expected = [measure(reconstruction, original).mean().item() for measure in (quality.psnr, quality.ssim)]
    assert (psnr["value"], ssim["value"]) == pytest.approx(tuple(expected), rel=1e-6)
    assert (frechet["name"], frechet["dimensions"]) == ("frechet_encoder", 64)
    model.eval()
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    real, made = Moments(), Moments()
    with torch.no_grad():
        real.add(model.features(batch).mean((2, 3)))
        made.add(model.features(model.reconstruct(batch)).mean((2, 3)))
    # Features are float32; sums over batches of another size round differently.
    assert frechet["value"] == pytest.approx(frechet_distance(real, made), rel=1e-4)
    (alone,) = measure_reconstructions(model, images[:1, :8, :8], [encoder_features(model)])
    assert alone["name"] == "psnr"  # too small for SSIM's window, too few for a covariance


def test_file_holds_types_parts_and_baselines_as_plain_numbers(model, dataset):
    measures = measure(model, dataset, [encoder_features(model)])
    assert json.loads(json.dumps(measures, allow_nan=False)) == measures
    found = discover(model, dataset)
    assert [one["name"] for one in measures["types"]] == list("abcdefgh")
    np.testing.assert_allclose([one["average_precision"] for one in measures["types"]], found.average_precision)
    means = {name: one["average_precision"] for name, one in measures["discovery"].items()}
    assert set(means) == {"model", "k_means", "untrained"}
    assert means["k_means"] == pytest.approx(np.mean([one["k_means"] for one in measures["types"]]))
    assert len(measures["parts"]["parts"]) == len(measures["purity"]) == 4
    text = measures_table(measures)
    assert "40 held-out images of parts, 32x32" in text
    assert f"{measures['types'][0]['average_precision']:.3f}" in text
    assert "FID" not in text


def test_without_truth_or_parts_the_rest_is_measured(model, dataset):
    plain = Dataset("photos", ImageSet(dataset.train.images), ImageSet(dataset.test.images))
    measures = measure(model, plain, [encoder_features(model)])
    assert set(measures) == {"images", "reconstructions", "parts"}
    beta = BetaVAE(latent_dim=4, encoder="small")
    assert set(measure(beta, plain, [encoder_features(beta)])) == {"images", "reconstructions"}
    classifier = Classifier(encoder="small")
    assert set(measure(classifier, plain, [])) == {"images"}
    assert measures_table(measure(classifier, plain, []))


def test_classifier_of_most_frozen_layers_is_taken(tmp_path):
    assert classifier_folder(tmp_path) is None
    for protocol in ("conv1", "conv5", "conv3"):
        folder = tmp_path / "transfer" / protocol / "model"
        Classifier(image_size=16, encoder="small").save_pretrained(folder)
    assert classifier_folder(tmp_path) == tmp_path / "transfer" / "conv5" / "model"


def test_training_logs_parts_every_other_epoch(model, dataset):
    assert observe(model, dataset, 1) == {}
    assert observe(BetaVAE(latent_dim=4, encoder="small"), dataset, 2) == {}
    seen = observe(model, dataset, 2)
    assert len(dataset.train) <= OBSERVED  # so that all images were seen
    expected = discover(model, dataset).summary()
    assert {name: seen[f"held_out_{name}"] for name in expected} == expected
    assert 1 <= seen["held_out_effective_parts"] <= 4
    plain = Dataset("photos", ImageSet(dataset.train.images), ImageSet(dataset.test.images))
    seen = observe(model, plain, 4)
    assert set(seen) == {"held_out_occurrences_per_image", "held_out_effective_parts"}
    counted = (occurrence_maps(model, dataset.test.images) > 0.5).sum() / len(dataset.test)
    assert seen["held_out_occurrences_per_image"] == pytest.approx(counted)
