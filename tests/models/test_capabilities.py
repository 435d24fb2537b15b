"""Models have the capabilities that they declare."""

import pytest
import torch

from accel.models import BetaVAE, Bigan, Classifier, PatchPosterior, PatchVAE

MODELS = {
    "patchvae": lambda: PatchVAE(image_size=16, encoder="small", num_parts=3, part_dim=2),
    "beta-vae": lambda: BetaVAE(image_size=16, encoder="small", latent_dim=5),
    "bigan": lambda: Bigan(image_size=16, encoder="small", latent_dim=5),
    "classifier": lambda: Classifier(image_size=16, encoder="small", num_classes=4),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_does_what_it_states_and_nothing_else(name):
    model = MODELS[name]().eval()
    assert [hasattr(model, method) for method in ("encode", "decode", "reconstruct", "sample")] == [
        model.has_decoder
    ] * 4
    assert hasattr(model, "num_parts") == hasattr(model, "part_dim") == model.has_parts
    if not model.has_decoder:
        assert not model.has_parts
        assert not model.has_variance
        return
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    posterior = model.encode(images)
    assert isinstance(posterior, PatchPosterior) == model.has_parts
    assert any(field.endswith("variance") for field in vars(posterior)) == model.has_variance
    assert (
        model.decode(posterior.code).shape == model.reconstruct(images).shape == model.sample(2).shape == images.shape
    )
