"""PPO's clipped losses (paper section 5), as sums over a shared denominator so that micro-batches add up exactly."""

from __future__ import annotations

import dataclasses

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The published defaults, but for `masked`."""

    clip_ratio: float = 0.2
    clip_value: float = 0.2
    value_coefficient: float = 0.1
    masked: bool = True  # False averages over padding as well, as the published code does


@flax.struct.dataclass
class Old:
    """What the rollout recorded and the updates are measured against."""

    logprobs: Float[Array, "B T"]
    values: Float[Array, "B T"]
    advantages: Float[Array, "B T"]
    returns: Float[Array, "B T"]


@flax.struct.dataclass
class PPOLoss:
    """A part's share of the loss of the whole minibatch; parts add up."""

    total: Float[Array, ""]
    stats: dict[str, Float[Array, ""]]


def num_positions(mask: Bool[Array, "B T"], settings: LossSettings) -> Float[Array, ""]:
    """The denominator: response tokens, or with masked=False all response positions."""
    return jnp.sum(mask if settings.masked else jnp.ones_like(mask)).astype(jnp.float32)


def ppo_loss(
    old: Old,
    mask: Bool[Array, "B T"],
    logprobs: Float[Array, "B T"],
    entropies: Float[Array, "B T"],
    values: Float[Array, "B T"] | None,
    denominator: Float[Array, ""],
    settings: LossSettings,
) -> PPOLoss:
    """max(-A rho, -A clip(rho)) + value_coefficient * 0.5 * max((V - R)^2, (clip(V) - R)^2), averaged.

    Args:
      mask: real response tokens; log-probabilities elsewhere count as unchanged (rho = 1).
      values: None where there is no critic: no value loss then.
      denominator: `num_positions` of the whole minibatch.
    """
    counted = mask if settings.masked else jnp.ones_like(mask)

    def mean(x: Float[Array, "B T"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(counted, x, 0.0)) / denominator

    log_ratio = jnp.where(mask, logprobs - old.logprobs, 0.0)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - settings.clip_ratio, 1.0 + settings.clip_ratio)
    unclipped_loss, clipped_loss = -old.advantages * ratio, -old.advantages * clipped
    policy_loss = mean(jnp.maximum(unclipped_loss, clipped_loss))
    stats = {
        "loss/policy": policy_loss,
        "policy/entropy": mean(entropies),
        "policy/approxkl": mean(0.5 * jnp.square(log_ratio)),
        "policy/clipfrac": mean((clipped_loss > unclipped_loss).astype(jnp.float32)),
        "policy/ratio_deviation": mean(jnp.abs(ratio - 1.0)),
        "returns/mean": mean(old.returns),
    }
    total = policy_loss
    if values is not None:
        low, high = old.values - settings.clip_value, old.values + settings.clip_value
        bounded = jnp.clip(values, low, high)
        errors, bounded_errors = jnp.square(values - old.returns), jnp.square(bounded - old.returns)
        value_loss = 0.5 * mean(jnp.maximum(errors, bounded_errors))
        total = policy_loss + settings.value_coefficient * value_loss
        stats |= {
            "loss/value": value_loss,
            "val/vpred": mean(values),
            "val/error": mean(errors),
            "val/clipfrac": mean((bounded_errors > errors).astype(jnp.float32)),
            "val/mean": mean(old.values),
        }
    return PPOLoss(total, stats | {"loss": total})
