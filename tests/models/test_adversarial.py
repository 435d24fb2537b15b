"""The discriminator treats images independently and has no state; BiGAN has the size of the other baselines."""

import pytest
import torch

import reference
from accel import BetaVAE, Noise
from accel.models import Bigan, Discriminator
from accel.models.encoder import PRESETS, Encoder
from tests.support import assert_close


def pictures(*shape, dtype=torch.float64):
    return torch.rand(*shape, dtype=dtype) * 2 - 1


def shapes(module):
    return [tuple(p.shape) for p in module.parameters()]


@pytest.mark.parametrize("preset", PRESETS)
def test_discriminator_has_the_encoder_s_layout(preset):
    discriminator = Discriminator(image_size=(64, 32), channels=1, encoder=preset)
    assert shapes(discriminator.encoder) == shapes(Encoder(preset, 1))
    logit, features = discriminator(torch.zeros(2, 1, 64, 32))
    scale = discriminator.encoder.scale
    assert logit.shape == (2,)
    assert features.shape == (2, discriminator.encoder.out_channels, 64 // scale, 32 // scale)


@pytest.mark.parametrize("latent_dim", [None, 5])
def test_an_image_is_judged_without_its_batch(latent_dim):
    discriminator = Discriminator(image_size=(32, 16), channels=3, encoder="small", latent_dim=latent_dim).double()
    images = pictures(3, 3, 32, 16) * torch.tensor([1.0, 0.1, 0.01])[:, None, None, None]
    code = None if latent_dim is None else pictures(3, latent_dim)
    logits, features = discriminator(images, code)
    for i in range(3):
        alone = discriminator(images[i : i + 1], None if code is None else code[i : i + 1])
        # The same sums in another order, of numbers of order 1.
        assert_close("logit", alone[0], logits[i : i + 1], relative=0, absolute=1e-10)
        assert_close("features", alone[1], features[i : i + 1], relative=1e-10)
    assert not list(discriminator.buffers())


def test_a_joint_discriminator_sees_whether_image_and_code_belong_together():
    discriminator = Discriminator(image_size=(16, 16), channels=3, encoder="small", latent_dim=4).double()
    (x1, x2), (z1, z2) = pictures(2, 1, 3, 16, 16), pictures(2, 1, 4)
    one = discriminator(x1, z1)[0] - discriminator(x1, z2)[0]
    other = discriminator(x2, z1)[0] - discriminator(x2, z2)[0]
    assert (one - other).abs() > 1e-4  # zero for a sum of judgements of x and of z


def test_autocast_keeps_logits_in_float32():
    discriminator = Discriminator(image_size=(16, 16), channels=3, encoder="small")
    with torch.autocast("cpu", torch.bfloat16):
        logit, features = discriminator(pictures(2, 3, 16, 16, dtype=torch.bfloat16))
    assert logit.dtype == torch.float32
    assert logit.isfinite().all()
    assert features.isfinite().all()


def test_bigan_is_of_beta_vae_s_size_and_shape():
    bigan, beta_vae = Bigan(), BetaVAE()
    count = [sum(p.numel() for p in model.parameters()) for model in (bigan, beta_vae)]
    assert 0.75 < count[0] / count[1] < 1.25
    assert bigan.latent_dim == beta_vae.latent_dim
    for part in ("encoder", "decoder", "expand"):
        assert shapes(getattr(bigan, part)) == shapes(getattr(beta_vae, part))


def test_bigan_encodes_images_and_generates_from_drawn_codes():
    model = Bigan(image_size=16, latent_dim=20, encoder="small").double().eval()
    images = pictures(3, 3, 16, 16)
    out = model(images, noise=Noise(4, 2))
    drawn = reference.appearance_noise(reference.Noise(4, 2), 3, 1, 20)[:, 0]
    assert_close("prior", out.prior, drawn, relative=1e-6)
    assert torch.equal(out.code, model.encode(images).code)
    assert torch.equal(out.generated, model.decode(out.prior.double()))
    assert torch.equal(model.reconstruct(images), model.decode(out.code))
    assert model.sample(2).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"\(H, W\) = \(16, 16\), got \(2, 3, 32, 32\)"):
        model.encode(torch.zeros(2, 3, 32, 32))


def test_bigan_comes_back_from_a_folder(tmp_path):
    model = Bigan(image_size=(16, 8), channels=1, latent_dim=5, encoder="small")
    images = pictures(2, 1, 16, 8).float()
    model(images, noise=Noise(0))  # moves batch-norm statistics
    model.save_pretrained(tmp_path)
    loaded = Bigan.from_pretrained(tmp_path)
    assert torch.equal(loaded.eval().reconstruct(images), model.eval().reconstruct(images))
