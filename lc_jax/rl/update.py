"""Rollout and advantages -> new parameters: epochs x minibatches x micro-batches of the clipped objective.

Micro-batches are programs of their own, so that each is only as wide as its longest episode.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.models.transformer import Model
from lc_jax.rl import loss as losses
from lc_jax.rl.rollout import Rollout, critic_values, policy_outputs
from lc_jax.training import state as states
from lc_jax.training.optimizer import Optimizer

Sums = dict[str, Float[Array, ""]]


@flax.struct.dataclass
class Learners:
    """The two models that PPO trains, as structures: their parameters live in the TrainState under the same names."""

    policy: Model
    critic: Model | None

    def params(self) -> dict[str, Any]:
        """What the optimiser sees: one tree, so that the gradient norm is clipped over both models together."""
        return {"policy": self.policy.params} | ({"critic": self.critic.params} if self.critic else {})

    def with_params(self, params: dict[str, Any] | None) -> Learners:
        """These structures around other parameters (or none)."""
        get = (params or {}).get
        critic = None if self.critic is None else self.critic.with_params(get("critic"))
        return Learners(self.policy.with_params(get("policy")), critic)


@dataclasses.dataclass(frozen=True)
class UpdateSettings:
    """Sizes count episodes, over all devices."""

    num_epochs: int
    minibatch_size: int  # episodes per optimiser step
    microbatch_size: int  # episodes whose activations are held at once
    temperature: float  # of the log-probabilities, as in the rollout
    loss: losses.LossSettings


@flax.struct.dataclass
class Minibatch:
    """Episodes of one optimiser step with their targets."""

    rollout: Rollout
    advantages: Float[Array, "B T"]
    returns: Float[Array, "B T"]

    def take(self, rows: Int[np.ndarray, " M"]) -> Minibatch:
        """Some of the episodes (host arrays), no wider than their longest needs."""
        seen = self.rollout
        episodes = seen.episodes.take(rows)
        told = (seen.logprobs, seen.entropies, seen.ref_logprobs, seen.values, self.advantages, self.returns)
        cut: list[Any] = [x[rows, : episodes.responses.shape[1]] for x in told]
        return Minibatch(Rollout(episodes, seen.critic_episodes.take(rows), *cut[:4]), *cut[4:])


def objective(
    params: dict[str, Any],
    learners: Learners,
    part: Minibatch,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    settings: UpdateSettings,
) -> tuple[Float[Array, ""], Sums]:
    """A part's share of the loss of its minibatch, and of the statistics."""
    models = learners.with_params(params)
    logprobs, entropies = policy_outputs(models.policy, part.rollout.episodes, temperature)
    values = None if models.critic is None else critic_values(models.critic, part.rollout.critic_episodes)
    old = losses.Old(part.rollout.logprobs, part.rollout.values, part.advantages, part.returns)
    out = losses.ppo_loss(old, part.rollout.episodes.mask, logprobs, entropies, values, denominator, settings.loss)
    return out.total, out.stats


@functools.partial(jax.jit, static_argnames=("settings",), donate_argnames=("grads",))
def add_gradients(
    grads: dict[str, Any],
    params: dict[str, Any],
    learners: Learners,
    part: Minibatch,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    *,
    settings: UpdateSettings,
) -> tuple[dict[str, Any], Sums]:
    """`grads` plus those of one micro-batch, float32, and its share of the statistics."""

    def share(params: dict[str, Any]) -> tuple[Float[Array, ""], Sums]:
        return objective(params, learners, part, denominator, temperature, settings)

    (_, stats), found = jax.value_and_grad(share, has_aux=True)(params)
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, found), stats


@functools.partial(jax.jit, static_argnames=("tx",), donate_argnames=("state",))
def apply_gradients(
    state: states.TrainState, grads: dict[str, Any], *, tx: Optimizer
) -> tuple[states.TrainState, Float[Array, ""]]:
    """One optimiser step. Returns the new state and the gradient norm before clipping."""
    return states.apply_gradients(state, grads, tx)


def ppo_step(
    state: states.TrainState,
    learners: Learners,
    minibatch: Minibatch,
    *,
    tx: Optimizer,
    settings: UpdateSettings,
) -> tuple[states.TrainState, Sums]:
    """One optimiser step on a minibatch (host arrays). Returns the new state and the step's mean statistics."""
    episodes = minibatch.rollout.episodes
    denominator = losses.num_positions(episodes.mask, settings.loss)
    temperature, parts, computed = jnp.float32(settings.temperature), [], 0
    # Zeros, so that the first micro-batch of a width needs no program of its own.
    grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32, device=x.sharding), state.params)
    for rows in episodes.groups(settings.microbatch_size):
        taken = minibatch.take(rows)
        computed += taken.rollout.episodes.tokens.size
        part = parallel.put_batch(taken)
        grads, stats = add_gradients(grads, state.params, learners, part, denominator, temperature, settings=settings)
        parts.append(jax.device_get(stats))  # waits: one micro-batch at a time is under way
    state, norm = apply_gradients(state, grads, tx=tx)
    stats = jax.tree.map(lambda *shares: sum(shares), *parts)
    padding = computed / np.sum(episodes.prompt_lengths + episodes.lengths) - 1  # slots for each real token
    return state, stats | {"grad_norm": norm, "skipped_in_a_row": state.skipped, "padding": padding}


def update(
    state: states.TrainState,
    learners: Learners,
    batch: Minibatch,
    *,
    tx: Optimizer,
    settings: UpdateSettings,
    seed: int,
) -> tuple[states.TrainState, list[dict[str, float]]]:
    """All optimiser steps on one rollout (host arrays). Returns the new state and each step's statistics.

    Episodes are shuffled anew each epoch. `learners` gives structure only.
    """
    total = len(batch.advantages)
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(settings.num_epochs):
        order = rng.permutation(total)
        for first in range(0, total, settings.minibatch_size):
            rows = order[first : first + settings.minibatch_size]
            state, stats = ppo_step(state, learners, batch.take(rows), tx=tx, settings=settings)
            steps.append({name: float(value) for name, value in stats.items()})
    return state, steps
