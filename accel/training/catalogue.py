"""The systems of the paper's tables and their differences as one table, without importing PyTorch."""

from dataclasses import dataclass, fields

from accel.common.bottleneck import BottleneckOptions

# Options of `TrainingConfig` that only some systems use.
BOTTLENECK = tuple(field.name for field in fields(BottleneckOptions))
PATCHVAE_ONLY = frozenset(
    {
        "head",
        "head_kernel_size",
        "places",
        "decoder",
        "ground",
        "beta_occ",
        "beta_identity",
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

# Options without effect, for each kind of system.
PATCHES = ADVERSARIAL_ONLY | SUPERVISED_ONLY
PATCHES_GAN = SUPERVISED_ONLY
VECTOR = PATCHVAE_ONLY | ADVERSARIAL_ONLY | SUPERVISED_ONLY
VECTOR_GAN = PATCHVAE_ONLY | SUPERVISED_ONLY
BIGAN = VECTOR | DIVERGENCE
LABELS = PATCHVAE_ONLY | ADVERSARIAL_ONLY | DIVERGENCE | CODE


@dataclass(frozen=True)
class SystemRow:
    """A system: its model and how it is trained.

    Attributes:
        name: name in the paper's tables; +w weights errors by gradient energy.
        model: class in `accel.models` of the network that is saved and evaluated.
        trainer: class in `accel.training.systems` with its losses and optimisers.
        weighted: whether reconstruction errors are weighted by gradient energy.
        without_effect: options of `TrainingConfig` that have no effect on it.
        learns_labels: whether it is trained with labels.
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
