"""Per-token rewards and advantages from scores (paper section 5): KL shaping, whitening, GAE, baselines.

`masked` statistics run over real response tokens only. `masked=False` is the published arithmetic: the same formulas
over every response position, padding included.
"""

from __future__ import annotations

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lc_jax.preflight import POSITIVE_INT, PROBABILITY, check_settings, divisors
from lc_jax.rl.rollout import Rollout

# What a score is compared with (ppo.baseline).
BASELINES = ("critic", "critic_with_answer", "leave_one_out", "same_answer")


@dataclasses.dataclass(frozen=True)
class AdvantageSettings:
    """How advantages are estimated."""

    gamma: float = 1.0
    lam: float = 1.0
    whiten_rewards: bool = True  # scale the shaped rewards to unit variance, their mean kept
    whiten_groups: int = 1  # statistics over so many equal runs of episodes; published: one for each of 8 devices
    clamp_kl: bool = False  # published: a token's penalty is never negative
    masked: bool = True

    def __post_init__(self) -> None:
        check_settings("advantage", self, gamma=PROBABILITY, lam=PROBABILITY, whiten_groups=POSITIVE_INT)

    def check(self, num_episodes: int) -> None:
        """Refuses groups that do not divide a rollout.

        Raises:
          ValueError: names the flag and the nearest sizes.
        """
        if num_episodes % self.whiten_groups:
            raise ValueError(
                f"--config.advantage.whiten_groups={self.whiten_groups} does not divide the rollout's {num_episodes} "
                f"episodes (--config.ppo.rollout_batch_size): give {divisors(num_episodes, self.whiten_groups)}."
            )


@flax.struct.dataclass
class Advantages:
    """What the losses are computed from."""

    advantages: Float[Array, "B T"]  # whitened
    returns: Float[Array, "B T"]  # what the critic should have said
    explained_variance: Float[Array, ""]  # of the returns by the critic: 1 = perfect, 0 = no better than their mean


def whiten(
    values: Float[Array, "B T"], mask: Bool[Array, "B T"], shift_mean: bool, epsilon: float = 1e-8
) -> Float[Array, "B T"]:
    """(x - mean) / (std + epsilon), the mean added back unless `shift_mean`; population std over the mask; 0 outside.

    Reference: torch_ops.py:whiten.
    """
    count = jnp.maximum(jnp.sum(mask), 1)
    kept = jnp.where(mask, values, 0.0)
    mean = jnp.sum(kept) / count
    std = jnp.sqrt(jnp.sum(jnp.where(mask, jnp.square(kept - mean), 0.0)) / count)
    white = (kept - mean) / (std + epsilon)
    return jnp.where(mask, white if shift_mean else white + mean, 0.0)


def shape_rewards(
    scores: Float[Array, " B"],
    logprobs: Float[Array, "B T"],
    ref_logprobs: Float[Array, "B T"],
    lengths: Int[Array | np.ndarray, " B"],
    kl_coef: Float[Array, ""],
    clamp: bool,
) -> Float[Array, "B T"]:
    """-kl_coef * KL_t at every response token, and the score at the last one; 0 past the end.

    KL_t = log pi - log ref, or max(., 0) when `clamp`.
    Differs: the last token is found by length, not by counting pad ids, so that pad may equal end-of-sequence.
    """
    slots = jnp.arange(logprobs.shape[1])
    kl = logprobs - ref_logprobs  # 0 past the end, where both are
    shaped = -kl_coef * (jnp.maximum(kl, 0.0) if clamp else kl)
    return shaped + jnp.where(slots == lengths[:, None] - 1, scores[:, None], 0.0)


def gae(rewards: Float[Array, "B T"], values: Float[Array, "B T"], gamma: float, lam: float) -> Float[Array, "B T"]:
    """A_t = delta_t + gamma lam A_{t+1} with delta_t = r_t + gamma V_{t+1} - V_t and V_T = 0 (Schulman et al. 2016)."""
    following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    deltas = rewards + gamma * following - values

    def back(later: Float[Array, " B"], delta: Float[Array, " B"]) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
        here = delta + gamma * lam * later
        return here, here

    _, advantages = jax.lax.scan(back, jnp.zeros_like(values[:, 0]), deltas.T, reverse=True)
    return advantages.T


def leave_one_out(scores: Float[np.ndarray, " B"], groups: Int[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    """Each score less the mean of the other scores of its group; 0 where a group has one member.

    Grouped by question, what is wrong with the truth itself cancels. Grouped by question and favourite answer
    ("same_answer"), the choice of the answer cancels as well: the expected gradient is that of E[score | answer], so
    that stated confidence is learned and the answers to the training questions are not.
    """
    sizes = np.bincount(groups)[groups]
    sums = np.bincount(groups, scores)[groups]
    return np.where(sizes > 1, (scores * sizes - sums) / np.maximum(sizes - 1, 1), 0.0).astype(np.float32)


def advantages_and_returns(
    rewards: Float[Array, "B T"], values: Float[Array, "B T"], mask: Bool[Array, "B T"], settings: AdvantageSettings
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Whitened advantages, and returns = unwhitened advantages + values.

    Reference: ppo_trainer.py:_estimate_advantage.

    Raises:
      ValueError: `whiten_groups` does not divide the episodes.
    """
    if settings.whiten_groups > 1:
        return _by_group(rewards, values, mask, settings)
    counted = mask if settings.masked else jnp.ones_like(mask)
    values = jnp.where(counted, values, 0.0)
    if settings.whiten_rewards:
        rewards = whiten(rewards, counted, shift_mean=False)
    advantages = gae(rewards, values, settings.gamma, settings.lam)
    return whiten(advantages, counted, shift_mean=True), jnp.where(counted, advantages + values, 0.0)


def _by_group(
    rewards: Float[Array, "B T"], values: Float[Array, "B T"], mask: Bool[Array, "B T"], settings: AdvantageSettings
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """`advantages_and_returns` of each run of episodes by itself."""
    count, total = settings.whiten_groups, len(rewards)
    settings.check(total)
    alone = dataclasses.replace(settings, whiten_groups=1)
    parts = [x.reshape(count, total // count, -1) for x in (rewards, values, mask)]
    found = jax.vmap(lambda r, v, m: advantages_and_returns(r, v, m, alone))(*parts)
    return found[0].reshape(rewards.shape), found[1].reshape(rewards.shape)


@functools.partial(jax.jit, static_argnames=("settings",))
def _estimate(
    rollout: Rollout, scores: Float[Array, " B"], kl_coef: Float[Array, ""], settings: AdvantageSettings
) -> Advantages:
    episodes = rollout.episodes
    rewards = shape_rewards(
        scores, rollout.logprobs, rollout.ref_logprobs, episodes.lengths, kl_coef, settings.clamp_kl
    )
    advantages, returns = advantages_and_returns(rewards, rollout.values, episodes.mask, settings)
    weights = episodes.mask.astype(jnp.float32)
    mean = jnp.average(returns, weights=weights)
    residual = jnp.average(jnp.square(returns - rollout.values), weights=weights)
    variance = jnp.average(jnp.square(returns - mean), weights=weights)
    return Advantages(advantages, returns, 1.0 - residual / jnp.maximum(variance, 1e-8))


def estimate(
    rollout: Rollout,
    scores: Float[np.ndarray, " B"],
    kl_coef: float,
    settings: AdvantageSettings,
    groups: Int[np.ndarray, " B"] | None = None,
) -> Advantages:
    """Advantages of a whole rollout from its scores, as host (numpy) arrays.

    Args:
      groups: numbers of the groups whose members are compared, where the baseline is no critic (see leave_one_out).
    """
    if groups is not None:
        scores = leave_one_out(scores, groups)
    out = _estimate(rollout, jnp.asarray(scores, jnp.float32), jnp.float32(kl_coef), settings)
    return jax.device_get(out)
