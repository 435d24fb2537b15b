"""The single declaration of the options of PatchVAE's bottleneck: names, allowed values and defaults.

Keyword arguments of functions and models, the command line, a model's config.json and the registered operators are
derived from it. reference/bottleneck.py has the same declaration for the specification.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any, Self, TypeVar

from .options import Options, between, option
from .spelling import nearest

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, kw_only=True)
class BottleneckOptions(Options):
    """The options of the bottleneck (paper, sections 3.2 and 3.3); None stands for the default.

    variance: pooling of log-variances over cells, "geometric" (log v = Σ w s) or "arithmetic" (v = Σ w exp s).
    occurrence: the distribution of occurrences in a cell. "bernoulli": parts are independent. "categorical": at most
    one part; the parts and "none", whose logit is 0, are relaxed together (Gumbel-softmax; Jang et al. 2017).
    occurrence_prior: prior probability π of each part, 0 < π < 1, by default 1/N (½ for N = 1). For categorical
    occurrences 0 < π < 1/N, by default 1/(N + 1), and "none" has probability 1 − N·π.
    appearance_prior_mean: c of the prior N(c, 1) of each appearance dimension, finite.
    straight_through: use discrete samples of the distribution in the forward pass, with the gradient of the relaxed
    samples.
    detach_weights: stop gradients through the pooling weights w.

    Raises ValueError, which names the option, for a value of wrong type or out of range.
    """

    variance: str = option(
        "geometric",
        "model",
        "type of mean that averages the variances of cells into the variance of a part",
        choices=("geometric", "arithmetic"),
    )
    occurrence: str = option(
        "bernoulli",
        "objective",
        "distribution of occurrences in a cell: each part independently (bernoulli), or at most one part (categorical)",
        choices=("bernoulli", "categorical"),
    )
    occurrence_prior: float | None = option(
        None,
        "objective",
        "π, prior probability that a part occurs in a cell",
        check=between(0, 1),
        absent="1/N, or 1/(N + 1) if categorical",
    )
    appearance_prior_mean: float = option(
        0.0,
        "objective",
        "c, mean of the prior N(c, 1) of appearances; if c ≠ 0, a part can be located before its appearance is learned",
    )
    straight_through: bool = option(
        False,
        "objective",
        "pass discrete samples of occurrences to the decoder, with the gradient of the relaxed samples",
    )
    detach_weights: bool = option(True, "objective", "stop gradients from pooled appearances to occurrences")

    def __post_init__(self) -> None:
        super().__post_init__()
        # One line that from_text reads: registered operators take this text, since they cannot take objects.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(BottleneckOptions)}
        object.__setattr__(self, "text", json.dumps(values))

    def of_parts(self, num_parts: int) -> Self:
        """These options with the default prior of N parts filled in; ValueError if N·π leaves nothing for "none"."""
        if self.occurrence_prior is None:
            # For one Bernoulli part 1/N would be 1, which has no logit; ½ is the uninformative choice.
            prior = 1.0 / (num_parts + 1) if self.occurrence == "categorical" else 1.0 / max(num_parts, 2)
            return dataclasses.replace(self, occurrence_prior=prior)
        if self.occurrence == "categorical" and not self.occurrence_prior < 1.0 / num_parts:
            raise ValueError(
                f"occurrence_prior must be below 1/N = {1.0 / num_parts:g} for categorical occurrences of "
                f"{num_parts} parts, got {self.occurrence_prior:g}"
            )
        return self

    @staticmethod
    @functools.cache
    def from_text(text: str) -> "BottleneckOptions":
        """The options whose `text` it is."""
        return BottleneckOptions(**json.loads(text))


_KEYWORDS: dict[str, list[str]] = {}  # of functions and classes that take these options: all that they take


def takes_bottleneck_options(function: Function) -> Function:
    """Decorator that adds the bottleneck's options and their defaults to the signature of a function with **options."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if parameters[-1].kind is not inspect.Parameter.VAR_KEYWORD:
        raise TypeError(f"{function.__name__} takes no **options")
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.metadata["default"],
                          annotation=field.type)
        for field in dataclasses.fields(BottleneckOptions)
    ]  # fmt: skip
    signature = signature.replace(parameters=[*parameters[:-1], *options])
    _KEYWORDS[function.__qualname__.removesuffix(".__init__")] = [*signature.parameters]
    function.__signature__ = signature  # type: ignore[attr-defined]  # which inspect reads, and nobody declares
    return function


def declare(function: str, num_parts: int, options: dict[str, Any]) -> BottleneckOptions:
    """Makes options from the keyword arguments of a function, for N parts.

    Raises TypeError for an unknown keyword, as Python does, and ValueError for an invalid value; both name the
    function.
    """
    known = [field.name for field in dataclasses.fields(BottleneckOptions)]
    for name in options:
        if name not in known:
            near = nearest(name, _KEYWORDS.get(function, known))
            raise TypeError(f"{function}() has no argument {name!r}, the nearest is {near!r}")
    try:
        try:
            return _checked(num_parts, tuple((name, type(value), value) for name, value in options.items()))
        except TypeError:  # an unhashable value, which is never valid
            return BottleneckOptions(**options).of_parts(num_parts)
    except ValueError as error:
        raise ValueError(f"{function}: {error}") from None


@functools.lru_cache(maxsize=256)
def _checked(num_parts: int, named_values: tuple[tuple[str, type, Any], ...]) -> BottleneckOptions:
    # Cached, since every call of an operator needs it; types are part of the key, since True == 1.
    return BottleneckOptions(**{name: value for name, _, value in named_values}).of_parts(num_parts)
