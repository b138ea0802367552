"""Compares numbers of a PPO step that come from the same parameters, and limits how far rounding may separate them.

The policy's log-probabilities are computed three times: while sampling (one token at a time, over a cache), when the
rollout is scored, and in the first update, before it changes anything. docs/numerics.md has the measurements behind
the limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from lc_jax import parallel
from lc_jax.inference.generate import Completion
from lc_jax.models import registry
from lc_jax.models.transformer import Model
from lc_jax.rl.batch import Episodes
from lc_jax.rl.rollout import policy_outputs

score = jax.jit(policy_outputs)
TAIL = 10.0  # the limit at the 99th percentile, in multiples of the limit of the mean


@dataclasses.dataclass(frozen=True)
class SamplingGap:
    """|log-probability while sampling - log-probability when scored| over all sampled tokens, nats.

    No maximum: among 150,000 tokens the largest is far off in a healthy bfloat16 run.
    """

    mean: float
    p99: float  # 99th percentile

    @classmethod
    def of(cls, episodes: Episodes, completions: Sequence[Completion]) -> Self:
        """Returns the gap of the completions that scored `episodes` were packed from; 0 where nothing was sampled."""
        gaps = [episodes.old_logprobs[i, : len(c.logprobs)] - np.asarray(c.logprobs) for i, c in enumerate(completions)]
        flat = np.abs(np.concatenate([np.zeros(0), *gaps]))
        return cls(float(flat.mean()), float(np.quantile(flat, 0.99))) if flat.size else cls(0.0, 0.0)


def in_float32(policy: Model) -> Model:
    """Returns the policy with the same parameters, computed in float32."""
    exact = registry.abstract_model(dataclasses.replace(policy.config, compute_dtype="float32"))
    return dataclasses.replace(exact, params=policy.params, frozen=policy.frozen)


def rounding_noise(policy: Model, episodes: Episodes, count: int, temperature: float) -> float:
    """Returns the mean |log-probability in the compute dtype - log-probability in float32| over `count` episodes, nats.

    That is what two correct passes that round differently may be apart: sampling and scoring were 0.4 to 1.0 times as
    far apart, in models of very different depth and entropy.
    """
    if policy.config.dtype == jnp.float32:
        return 0.0
    exact = in_float32(policy)
    rows = np.arange(count) * len(episodes.lengths) // count  # spread over the questions
    some = episodes.take(rows)
    logprobs, _ = score(exact, parallel.put_batch(some), jnp.float32(temperature))
    return float(np.abs(some.old_logprobs - parallel.to_host(logprobs))[some.mask].mean())


@dataclasses.dataclass(frozen=True)
class Limits:
    """Largest deviations that rounding explains."""

    ratio_deviation: float  # mean |ratio - 1| before the first update of a rollout
    sampling_gap: float  # nats, the mean; TAIL times as much at the 99th percentile

    @classmethod
    def of(cls, noise: float, *, max_ratio_deviation: float = 0.0, max_sampling_gap: float = 0.0) -> Self:
        """Returns the limits where `noise` is the `rounding_noise`; a limit that is set (not 0) has precedence.

        The constants are for float32, in which GPUs may multiply with 10 bits (TF32) and the noise is not measured.
        """
        return cls(max_ratio_deviation or 0.0025 + 2.0 * noise, max_sampling_gap or 0.0125 + 5.0 * noise)

    def check_sampling(self, gap: SamplingGap) -> None:
        """Refuses a sampler that does not draw from what is scored.

        Raises:
          FloatingPointError: names the numbers, their limits, what to look at and which setting allows more.
        """
        if gap.mean <= self.sampling_gap and gap.p99 <= TAIL * self.sampling_gap:  # False for NaN
            return
        needed = max(gap.mean, gap.p99 / TAIL)
        raise FloatingPointError(
            f"Log-probabilities while sampling differ from those of the same tokens when scored by {gap.mean:.3g} nats "
            f"in the mean (limit {self.sampling_gap:.3g}) and {gap.p99:.3g} at the 99th percentile (limit "
            f"{TAIL * self.sampling_gap:.3g}), more than rounding explains: temperature, masks, positions or stale "
            "weights. --config=configs/verify.py with this config as --config.of says which; "
            f"--config.ppo.max_sampling_gap={1.5 * needed:.2g} would allow it."
        )

    def check_ratio(self, deviation: float) -> None:
        """Refuses a first update that scores other log-probabilities than the rollout holds.

        Raises:
          FloatingPointError: names the number, its limit, what to look at and which setting allows more.
        """
        if deviation <= self.ratio_deviation:  # False for NaN
            return
        raise FloatingPointError(
            f"Before the first update of a rollout the policy's ratio is off 1 by {deviation:.3g} in the mean (limit "
            f"{self.ratio_deviation:.3g}), though nothing was changed: the rollout was scored with other rows, "
            "temperature or weights than the update. --config=configs/verify.py with this config as --config.of says "
            f"which; --config.ppo.max_ratio_deviation={1.5 * deviation:.2g} would allow it."
        )
