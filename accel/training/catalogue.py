"""The systems of the paper's tables, one a row of one table: all that distinguishes them, without PyTorch."""

from dataclasses import dataclass, fields

from accel.common.bottleneck import BottleneckOptions

# Options of `TrainingConfig` that only some systems have a use for.
BOTTLENECK = tuple(field.name for field in fields(BottleneckOptions))
PATCHVAE_ONLY = frozenset(
    {
        "head",
        "head_kernel_size",
        "places",
        "decoder",
        "ground",
        "beta_occ",
        "warm_up",
        "renew",
        "temperature",
        "temperature_rate",
        "temperature_floor",
        *BOTTLENECK,
    }
)
ADVERSARIAL_ONLY = frozenset({"adversarial_weight", "feature_weight"})
SUPERVISED_ONLY = frozenset({"weights"})
CODE = frozenset({"num_parts", "part_dim"})
DIVERGENCE = frozenset({"beta_app"})

# What each kind of system has no use for.
PATCHES = ADVERSARIAL_ONLY | SUPERVISED_ONLY
PATCHES_GAN = SUPERVISED_ONLY
VECTOR = PATCHVAE_ONLY | ADVERSARIAL_ONLY | SUPERVISED_ONLY
VECTOR_GAN = PATCHVAE_ONLY | SUPERVISED_ONLY
BIGAN = VECTOR | DIVERGENCE
LABELS = PATCHVAE_ONLY | ADVERSARIAL_ONLY | DIVERGENCE | CODE


@dataclass(frozen=True)
class SystemRow:
    """A system: what is trained, and how.

    Attributes:
        name: as the paper's tables call it; +w weighs errors by gradient energy.
        model: the class, of `accel.models`, of the network that is saved, measured and pictured.
        trainer: the class, of `accel.training.systems`, that knows its losses and optimisers.
        weighted: whether reconstruction errors are weighted by gradient energy.
        without_effect: the options of `TrainingConfig` that it has no use for.
        learns_labels: whether it is trained on the labels of the images.
    """

    name: str
    model: str
    trainer: str
    weighted: bool
    without_effect: frozenset[str]
    learns_labels: bool = False


SYSTEMS = {
    row.name: row
    for row in (
        SystemRow("beta-vae", "BetaVAE", "AutoencoderSystem", False, VECTOR),
        SystemRow("beta-vae+w", "BetaVAE", "AutoencoderSystem", True, VECTOR),
        SystemRow("beta-vae-gan", "BetaVAE", "AdversarialSystem", False, VECTOR_GAN),
        SystemRow("beta-vae-gan+w", "BetaVAE", "AdversarialSystem", True, VECTOR_GAN),
        SystemRow("patchvae", "PatchVAE", "AutoencoderSystem", False, PATCHES),
        SystemRow("patchvae+w", "PatchVAE", "AutoencoderSystem", True, PATCHES),
        SystemRow("patchvae-gan", "PatchVAE", "AdversarialSystem", False, PATCHES_GAN),
        SystemRow("patchvae-gan+w", "PatchVAE", "AdversarialSystem", True, PATCHES_GAN),
        SystemRow("bigan", "Bigan", "BiganSystem", False, BIGAN),
        SystemRow("supervised", "Classifier", "SupervisedSystem", False, LABELS, learns_labels=True),
    )
}
