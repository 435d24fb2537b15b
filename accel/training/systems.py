"""The systems of the paper's tables: networks, losses and optimisers."""

import dataclasses
import functools
import operator

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel import models
from accel.models import Classifier, Discriminator, PatchVAE, elbo, identity_cross_entropy
from accel.models.classifier import load_torchvision
from accel.models.pretrained import Pretrained
from accel.ops import Noise
from accel.training import processes
from accel.training.catalogue import BOTTLENECK, SYSTEMS
from accel.training.config import TrainingConfig
from accel.training.schedule import beta_occ_at, temperature_at

IDENTITY_WEIGHT = 10.0  # of the cross-entropy with identities of parts, with --renew
GAN_BETAS = (0.5, 0.999)  # betas of Adam in adversarial training (Radford et al. 2016)


class System:
    """Networks that are trained together. Subclasses define the losses.

    terms: names of the terms that `losses` returns, "total" first; metrics.jsonl has train_TERM and held_out_TERM.
    model: the network that is saved and evaluated. networks: all trained networks, including `model`.
    optimisers: one for each network, under the same name.
    descended: terms whose sum is minimised; each has gradients for the parameters of one network only.

    In `losses`, images are float32 (B, C, H, W) in [−1, 1]; labels int64 (B,) or None, or for runs that renew parts the
    parts that are known to occur, int16 (B, h, w), see `identity_cross_entropy`; step, which determines the
    schedules, and the fields of noise are numbers or 0-d tensors on the images' device. It must not synchronise with
    the device.
    """

    terms: tuple[str, ...]
    descended: tuple[str, ...] = ("total",)

    def __init__(self, networks: dict[str, nn.Module], config: TrainingConfig, device: torch.device):
        # Channels last makes a step a tenth faster on a CPU, too.
        self.networks = nn.ModuleDict(networks).to(device, memory_format=torch.channels_last)
        self.config = config
        self.optimisers = {name: adam(network, config.learning_rate) for name, network in networks.items()}

    @property
    def model(self) -> nn.Module:
        """The network that is saved and evaluated."""
        return self.networks["model"]

    def losses(self, images: Tensor, labels: Tensor | None, step, noise: Noise):
        """Returns (output or None, {term: mean over images, a 0-d tensor}), in training and evaluation."""
        raise NotImplementedError

    def descended_loss(self, losses: dict[str, Tensor]) -> Tensor:
        """The sum of the terms in `descended`, for `backward`."""
        return functools.reduce(operator.add, (losses[term] for term in self.descended))

    @torch.compiler.disable
    def backward(self, loss: Tensor) -> None:
        """Computes the gradients of `loss`, averaged over processes."""
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        with torch.autocast(loss.device.type, enabled=False):  # each product in the precision of its forward pass
            loss.backward()
        for optimiser in self.optimisers.values():
            processes.average_gradients(optimiser)

    def step_optimisers(self) -> None:
        """Takes one step of every optimiser."""
        for optimiser in self.optimisers.values():
            optimiser.step()


def adam(network: nn.Module, learning_rate: float, **options) -> torch.optim.Adam:
    """Adam for all systems: as a fused kernel, with the learning rate on the device, where a CUDA graph reads it."""
    device = next(network.parameters()).device
    rate = torch.tensor(learning_rate, device=device)
    return torch.optim.Adam(network.parameters(), lr=rate, fused=True, capturable=device.type == "cuda", **options)


class AutoencoderSystem(System):
    """A model that is trained with the negative ELBO, with or without gradient-energy weights."""

    terms = ("total", "reconstruction", "kl_appearance", "kl_occurrence")

    def __init__(self, networks: dict[str, nn.Module], config: TrainingConfig, device: torch.device):
        super().__init__(networks, config, device)
        if config.ground:
            self.terms = (*self.terms, "kl_ground")
        if config.beta_identity != 1:
            self.terms = (*self.terms, "identity")
        if config.renew:
            self.descended = (*self.descended, "identity_cross_entropy")

    def losses(self, images, labels, step, noise):
        """As `System.losses`: the negative evidence lower bound and its terms, in nats.

        With --renew also the weighted cross-entropy with the identities of parts, which is no part of the bound.
        """
        out = self.model(images, temperature=temperature_at(step, self.config), noise=noise)
        betas = self.config.beta_app, beta_occ_at(step, self.config)
        loss = elbo(out, images, *betas, self.config.weighted, self.config.beta_identity, processes.total)
        terms = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
        if self.config.renew:
            known = labels is not None and labels.ndim == 3  # not of held-out images
            error = identity_cross_entropy(out.occurrence_logits, labels) if known else torch.zeros_like(loss.total)
            terms["identity_cross_entropy"] = IDENTITY_WEIGHT * error
        return out, {name: value for name, value in terms.items() if value is not None}


class TwoPlayerSystem(System):
    """Adversarial training of a model and a discriminator, with one forward pass of the model.

    The discriminator evaluates the model's output twice: for the model's loss, with detached weights of the
    discriminator, and for the discriminator's loss, with detached output of the model. So one backward pass gives each
    network the gradient of its own loss, at the weights before the update. The discriminator has no state except its
    weights, so these evaluations have no side effect.

    judges_codes: whether the discriminator is a joint one, of images and codes.
    """

    descended = ("total", "discriminator")
    judges_codes = False

    def __init__(self, networks: dict[str, nn.Module], config: TrainingConfig, device: torch.device):
        super().__init__(networks, config, device)
        self.optimisers["discriminator"] = adam(networks["discriminator"], config.learning_rate, betas=GAN_BETAS)

    def judged(self, *images_and_code: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, features) of the discriminator, with gradients only for its weights."""
        return self.networks["discriminator"](*(tensor.detach() for tensor in images_and_code))

    def judged_by_constants(self, *images_and_code: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, features) of the discriminator, with gradients only for its input."""
        discriminator = self.networks["discriminator"]
        constants = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        return torch.func.functional_call(discriminator, constants, images_and_code)


class AdversarialSystem(AutoencoderSystem, TwoPlayerSystem):
    """An autoencoder and a discriminator of its reconstructions (Larsen et al. 2016; paper, section 3.4).

    The model minimises  elbo + w_a · softplus(−D(x̂)) + w_f · |f(x) − f(x̂)|²,  where f are features of the
    discriminator, and the discriminator minimises  softplus(−D(x)) + softplus(D(x̂)); both losses are in nats.
    """

    terms = (*AutoencoderSystem.terms, "adversarial", "feature_distance", "discriminator")

    def losses(self, images, labels, step, noise):
        """As `System.losses`: those of an autoencoder, and those of the discriminator."""
        out, losses = super().losses(images, labels, step, noise)
        (real, features), (fake, _) = self.judged(images), self.judged(out.reconstruction)
        passing, reconstructed = self.judged_by_constants(out.reconstruction)
        adversarial = functional.softplus(-passing).mean()
        difference = features.detach().float() - reconstructed.float()
        feature_distance = difference.square().sum((1, 2, 3)).mean()
        losses["total"] = (
            losses["total"]
            + self.config.adversarial_weight * adversarial
            + self.config.feature_weight * feature_distance
        )
        losses["adversarial"], losses["feature_distance"] = adversarial, feature_distance
        losses["discriminator"] = (functional.softplus(-real) + functional.softplus(fake)).mean()
        return out, losses


class BiganSystem(TwoPlayerSystem):
    """A generator and an encoder against a joint discriminator of (x, E(x)) and (G(z), z) (Donahue et al. 2016).

    The discriminator minimises  softplus(−D(x, E(x))) + softplus(D(G(z), z)); encoder and generator minimise the same
    with exchanged labels,  encoder + generator = softplus(D(x, E(x))) + softplus(−D(G(z), z)),  in nats.
    """

    terms = ("total", "encoder", "generator", "discriminator")
    judges_codes = True

    def __init__(self, networks: dict[str, nn.Module], config: TrainingConfig, device: torch.device):
        super().__init__(networks, config, device)
        self.optimisers["model"] = adam(networks["model"], config.learning_rate, betas=GAN_BETAS)

    def losses(self, images, labels, step, noise):
        """As `System.losses`: both sides' losses in nats, on the same forward pass."""
        out = self.model(images, noise=noise)
        (real, _), (fake, _) = self.judged(images, out.code), self.judged(out.generated, out.prior)
        encoded, _ = self.judged_by_constants(images, out.code)
        generated, _ = self.judged_by_constants(out.generated, out.prior)
        encoder, generator = functional.softplus(encoded).mean(), functional.softplus(-generated).mean()
        discriminator = (functional.softplus(-real) + functional.softplus(fake)).mean()
        terms = (encoder + generator, encoder, generator, discriminator)
        return out, dict(zip(self.terms, terms, strict=True))


class SupervisedSystem(System):
    """The encoder and a classifier, trained end to end. total: cross-entropy in nats; error: error rate in %."""

    terms = ("total", "error")

    def losses(self, images, labels, step, noise):
        """As `System.losses`: no output, but the loss and the error in %."""
        logits = self.model(images, noise=noise if self.model.training else None).float()
        error = (logits.argmax(1) != labels).float().mean() * 100
        return None, {"total": functional.cross_entropy(logits, labels), "error": error}


TRAINERS = {kind.__name__: kind for kind in (AutoencoderSystem, AdversarialSystem, BiganSystem, SupervisedSystem)}


def trainer_class(system: str) -> type[System]:
    """The trainer class of the system with this name."""
    return TRAINERS[SYSTEMS[system].trainer]


def model_class(system: str) -> type[Pretrained]:
    """The model class of the system with this name."""
    return getattr(models, SYSTEMS[system].model)


def build_model(
    config: TrainingConfig, height: int, width: int, channels: int, num_classes: int | None = None
) -> nn.Module:
    """A new model for images of this size; its weights depend only on config.seed, or come from config.weights.

    Raises ValueError if the encoder's scale does not divide height and width, or for incompatible options.
    """
    arguments = {"image_size": (height, width), "channels": channels, "encoder": config.encoder}
    kind = model_class(config.system)
    if kind is PatchVAE:
        arguments |= {
            "num_parts": config.num_parts,
            "part_dim": config.part_dim,
            "head": config.head,
            "head_kernel_size": config.head_kernel_size,
            "places": config.places,
            "decoder": config.decoder,
            "ground": config.ground,
            **{name: getattr(config, name) for name in BOTTLENECK},
        }
        if config.beta_identity != 1 and config.occurrence != "categorical":
            raise ValueError(
                f"beta_identity {config.beta_identity:g} needs categorical occurrences, got {config.occurrence}: "
                "choose --occurrence categorical or --beta-identity 1"
            )
    elif kind is Classifier:
        arguments["num_classes"] = num_classes
    else:
        arguments["latent_dim"] = config.num_parts * config.part_dim  # as many dimensions as PatchVAE's code
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = kind(**arguments)
    if config.weights is not None:
        load_torchvision(model.encoder, config.weights)
    return model


def build_discriminator(config: TrainingConfig, model: nn.Module, judges_codes: bool) -> Discriminator:
    """A new discriminator for a model's images, and codes if judges_codes; its weights depend only on the seed."""
    joint = {"latent_dim": model.latent_dim} if judges_codes else {}
    channels = model.encoder.conv1.in_channels
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return Discriminator(image_size=model.image_size, channels=channels, encoder=config.encoder, **joint)


def build_system(
    config: TrainingConfig, height: int, width: int, channels: int, num_classes: int | None, device: torch.device
) -> System:
    """A new system of the configuration, for images of this size.

    num_classes: number of classes, None without labels. Raises ValueError as `build_model` does.
    """
    networks = {"model": build_model(config, height, width, channels, num_classes)}
    kind = trainer_class(config.system)
    if issubclass(kind, TwoPlayerSystem):
        networks["discriminator"] = build_discriminator(config, networks["model"], kind.judges_codes)
    return kind(networks, config, device)
