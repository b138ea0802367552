"""The KL coefficient: fixed (published) or adapted to a target (Ziegler et al. 2019)."""

from __future__ import annotations

import dataclasses
from typing import Self

from lc_jax.preflight import NON_NEGATIVE, POSITIVE, check_settings

KINDS = ("fixed", "adaptive")


@dataclasses.dataclass(frozen=True)
class FixedKL:
    """Constant coefficient."""

    coefficient: float

    def observe(self, kl: float) -> Self:
        """Returns the controller unchanged."""
        return self


@dataclasses.dataclass(frozen=True)
class AdaptiveKL:
    """Raises the coefficient while KL is above the target and lowers it below, by at most 20 % of k_beta a step."""

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
