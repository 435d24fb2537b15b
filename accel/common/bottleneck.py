"""What PatchVAE's bottleneck is: the one place that knows its options, what they may be and what they are by default.

The functions and models that take these options as keywords, the command line, a model's config.json and the
registered operators are made from it. reference/bottleneck.py states the same for the specification.
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

    variance: "geometric" (log v = Σ w s) or "arithmetic" (v = Σ w exp s), how log-variances are pooled over cells.
    occurrence: the distribution of a cell's parts. "bernoulli": each part by itself. "categorical": one part at most;
    the parts and "none", whose logit is 0, are relaxed together (Gumbel-softmax; Jang et al. 2017).
    occurrence_prior: π of each part, 0 < π < 1, by default 1/N (½ for N = 1). For categorical occurrences 0 < π < 1/N,
    by default 1/(N + 1), and none has 1 − N·π.
    appearance_prior_mean: c of the prior N(c, 1) of each number of an appearance, finite.
    straight_through: place the decision, which is a true sample of the distribution, instead of the relaxed sample,
    with the relaxed sample's gradient.
    detach_weights: no gradient flows through the pooling weights w.

    Raises ValueError that names the option if a value is of the wrong type or range.
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
        # One line that from_text reads: what registered operators carry, which know no objects.
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(BottleneckOptions)}
        object.__setattr__(self, "text", json.dumps(values))

    def of_parts(self, num_parts: int) -> Self:
        """The same with the prior of N parts filled in; ValueError if π leaves nothing for none."""
        if self.occurrence_prior is None:
            # One Bernoulli part means a prior of 1, which has no logit; ½ is the nearest that says as little.
            prior = 1.0 / (num_parts + 1) if self.occurrence == "categorical" else 1.0 / max(num_parts, 2)
            return dataclasses.replace(self, occurrence_prior=prior)
        if self.occurrence == "categorical" and not self.occurrence_prior < 1.0 / num_parts:
            raise ValueError(
                f"occurrence_prior must be below 1/N = {1.0 / num_parts:g} where {num_parts} parts share a categorical "
                f"cell, got {self.occurrence_prior:g}"
            )
        return self

    @staticmethod
    @functools.cache
    def from_text(text: str) -> "BottleneckOptions":
        """The options whose `text` it is."""
        return BottleneckOptions(**json.loads(text))


def takes_bottleneck_options(function: Function) -> Function:
    """Lists the bottleneck's options, and their defaults, in the signature of a function that takes **options."""
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
    function.__signature__ = signature  # type: ignore[attr-defined]  # which inspect reads, and nobody declares
    return function


def declare(function: str, num_parts: int, options: dict[str, Any]) -> BottleneckOptions:
    """The options that a function was given as keywords, for N parts.

    Raises TypeError for an unknown keyword, as Python does, and ValueError for a value; both name the function.
    """
    known = [field.name for field in dataclasses.fields(BottleneckOptions)]
    for name in options:
        if name not in known:
            raise TypeError(f"{function}() has no argument {name!r}, the nearest is {nearest(name, known)!r}")
    try:
        try:
            return _checked(num_parts, tuple((name, type(value), value) for name, value in options.items()))
        except TypeError:  # a value without a hash, which is none that an option can have
            return BottleneckOptions(**options).of_parts(num_parts)
    except ValueError as error:
        raise ValueError(f"{function}: {error}") from None


@functools.lru_cache(maxsize=256)
def _checked(num_parts: int, named_values: tuple[tuple[str, type, Any], ...]) -> BottleneckOptions:
    # Kept, since every call of an operator asks; types belong to the key, as True and 1 are equal.
    return BottleneckOptions(**{name: value for name, _, value in named_values}).of_parts(num_parts)
