"""PPO's clipped losses (paper section 5), as sums over a shared denominator so that micro-batches add up exactly."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lc_jax.preflight import NON_NEGATIVE, POSITIVE, POSITIVE_INT, check_settings
from lc_jax.rl import kl
from lc_jax.rl.batch import Episodes

Stats = dict[str, Float[Array, ""]]
AVERAGES = ("tokens", "responses", "constant")


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """The published defaults, but for `masked`."""

    clip_ratio: float = 0.2
    clip_value: float = 0.2
    value_coefficient: float = 0.1
    masked: bool = True  # False averages over padding as well, as the published code does
    average: str = "tokens"  # what the policy's loss is a mean of, one of AVERAGES; see `weighted`
    length: int = 300  # tokens, the divisor of "constant"
    kl: str = ""  # estimator of a KL penalty in the loss, one of kl.ESTIMATORS; "": none

    def __post_init__(self) -> None:
        check_settings(
            "loss", self, clip_ratio=POSITIVE, clip_value=POSITIVE, value_coefficient=NON_NEGATIVE, average=AVERAGES,
            length=POSITIVE_INT, kl=("", *kl.ESTIMATORS),
        )  # fmt: skip


def num_positions(mask: Bool[Array, "B T"], settings: LossSettings) -> Float[Array, ""]:
    """Returns the denominator: response tokens, or with masked=False all response positions."""
    return jnp.sum(mask if settings.masked else jnp.ones_like(mask)).astype(jnp.float32)


def weighted(minibatch: Episodes, settings: LossSettings) -> Episodes:
    """Returns a minibatch (host arrays) whose mean over tokens in `policy_loss` is the average of the settings.

    "tokens" is the published mean over all tokens, in which long responses weigh more. "responses" is the mean over
    responses of the mean over their tokens (GRPO), "constant" the sum over tokens divided by `length`, in the mean over
    responses, whose gradient is that of the expected score (Dr. GRPO). The weights go to advantages and KL terms, in
    which the loss is linear; the critic keeps its mean over tokens.
    """
    if settings.average == "tokens":
        return minibatch
    count, divisors = len(minibatch.lengths), minibatch.lengths[:, None]
    if settings.average == "constant":
        divisors = np.full_like(divisors, settings.length)
    weights = (float(num_positions(minibatch.mask, settings)) / count / divisors).astype(np.float32)
    return dataclasses.replace(
        minibatch, advantages=minibatch.advantages * weights, kl_weights=minibatch.kl_weights * weights
    )


def policy_loss(
    episodes: Episodes,
    logprobs: Float[Array, "B T"],
    entropies: Float[Array, "B T"],
    denominator: Float[Array, ""],
    settings: LossSettings,
) -> tuple[Float[Array, ""], Stats]:
    """Returns the mean of max(-A rho, -A clip(rho)) and statistics: what these episodes add to a minibatch's.

    With `settings.kl` the loss has a KL term too, the mean of kl_weights * `kl.estimate`. Past the end of a response
    the log-probability counts as unchanged (rho = 1).

    Args:
      logprobs: of the policy that is trained; rho = exp(logprobs - old_logprobs).
      denominator: `num_positions` of the whole minibatch.
    """
    mask, advantages = episodes.mask, episodes.advantages
    mean = functools.partial(_mean, mask=mask, denominator=denominator, settings=settings)
    log_ratio = jnp.where(mask, logprobs - episodes.old_logprobs, 0.0)
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1.0 - settings.clip_ratio, 1.0 + settings.clip_ratio)
    unclipped_loss, clipped_loss = -advantages * ratio, -advantages * clipped
    loss = mean(jnp.maximum(unclipped_loss, clipped_loss))
    stats = {
        "loss/policy": loss,
        "policy/entropy": mean(entropies),
        "policy/approxkl": mean(0.5 * jnp.square(log_ratio)),
        "policy/clipfrac": mean((clipped_loss > unclipped_loss).astype(jnp.float32)),
        "policy/ratio_deviation": mean(jnp.abs(ratio - 1.0)),
        "returns/mean": mean(episodes.returns),
    }
    if settings.kl:
        log_ratio = jnp.where(mask, logprobs - episodes.ref_logprobs, 0.0)
        stats["loss/kl"] = mean(episodes.kl_weights * kl.estimate(log_ratio, settings.kl, jnp))
        loss += stats["loss/kl"]
    return loss, stats


def value_loss(
    episodes: Episodes, values: Float[Array, "B T"], denominator: Float[Array, ""], settings: LossSettings
) -> tuple[Float[Array, ""], Stats]:
    """Returns the mean of 0.5 * max((V - R)^2, (clip(V) - R)^2) and statistics, as `policy_loss` does."""
    old, returns = episodes.old_values, episodes.returns
    mean = functools.partial(_mean, mask=episodes.mask, denominator=denominator, settings=settings)
    low, high = old - settings.clip_value, old + settings.clip_value
    errors, clipped_errors = jnp.square(values - returns), jnp.square(jnp.clip(values, low, high) - returns)
    loss = 0.5 * mean(jnp.maximum(errors, clipped_errors))
    return loss, {
        "loss/value": loss,
        "val/vpred": mean(values),
        "val/error": mean(errors),
        "val/clipfrac": mean((clipped_errors > errors).astype(jnp.float32)),
        "val/mean": mean(old),
    }


def _mean(
    x: Float[Array, "B T"], mask: Bool[Array, "B T"], denominator: Float[Array, ""], settings: LossSettings
) -> Float[Array, ""]:
    return jnp.sum(jnp.where(mask if settings.masked else True, x, 0.0)) / denominator
