"""KL(policy | reference): its estimators, and its coefficient, fixed (published) or adapted (Ziegler et al. 2019)."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np

from lc_jax.preflight import NON_NEGATIVE, POSITIVE, check_settings

KINDS = ("fixed", "adaptive")
ESTIMATORS = ("k1", "k2", "k3")  # Schulman 2020
# What the expected gradient is where it is not that of KL(policy | reference), by place and estimator (one token a
# response, sampled from the policy that is updated; Liu et al. 2025, arXiv 2510.01555).
BIASES = {
    ("advantage", "k2"): "the gradient of no divergence",
    ("advantage", "k3"): "the gradient of KL(policy | reference) - KL(reference | policy)",
    ("loss", "k1"): "zero: the term adds noise and holds nothing back",
    ("loss", "k3"): "the gradient of KL(reference | policy)",
}


def estimate(log_ratio: Any, estimator: str, numpy: Any = np) -> Any:
    """Returns an estimate of the KL divergence at each token, nats.

    k1 = log_ratio, k2 = log_ratio^2 / 2, k3 = exp(-log_ratio) - 1 + log_ratio.

    Args:
      log_ratio: log policy - log reference of the sampled tokens, an array of any shape.
      numpy: the module of the arrays, numpy or jax.numpy.
    """
    if estimator == "k1":
        return log_ratio
    return 0.5 * numpy.square(log_ratio) if estimator == "k2" else numpy.expm1(-log_ratio) + log_ratio


@dataclasses.dataclass(frozen=True)
class FixedKL:
    """Constant coefficient."""

    coefficient: float

    def observe(self, kl: float) -> Self:
        """Returns the controller unchanged."""
        return self


@dataclasses.dataclass(frozen=True)
class AdaptiveKL:
    """Raises the coefficient while KL is above the target and lowers it below, by at most 20% of k_beta a step."""

    coefficient: float
    target: float  # nats per response
    k_beta: float

    def observe(self, kl: float) -> Self:
        """Returns the controller after a step whose responses had `kl` nats on average."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return dataclasses.replace(self, coefficient=self.coefficient * (1 + self.k_beta * error))


Controller = FixedKL | AdaptiveKL


@dataclasses.dataclass(frozen=True)
class KLSettings:
    """Kind of the controller, with target and rate of the adaptive one (`config.kl`).

    Raises:
      ValueError: an unknown kind, or a number out of range.
    """

    kind: str  # one of KINDS
    target: float  # nats per response
    k_beta: float

    def __post_init__(self) -> None:
        check_settings("kl", self, kind=KINDS, target=POSITIVE, k_beta=NON_NEGATIVE)


def make(kind: str, coefficient: float, target: float, k_beta: float) -> Controller:
    """Returns a controller by name.

    Raises:
      ValueError: as for KLSettings.
    """
    KLSettings(kind, target, k_beta)
    return FixedKL(coefficient) if kind == "fixed" else AdaptiveKL(coefficient, target, k_beta)
