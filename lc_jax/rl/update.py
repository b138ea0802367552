"""Rollout and advantages -> new parameters: epochs x minibatches x micro-batches of the clipped objective.

Micro-batches are programs of their own, so that each is only as wide as its longest episode; so are policy and critic,
so that one of them at a time has activations and new gradients.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.models.transformer import Model
from lc_jax.preflight import NATURAL, POSITIVE, POSITIVE_INT, check_settings
from lc_jax.rl import loss as losses
from lc_jax.rl.rollout import Episodes, Rollout, critic_values, policy_outputs
from lc_jax.training import state as states
from lc_jax.training.optimizer import Optimizer


@flax.struct.dataclass
class Learners:
    """The two models that PPO trains, as structures: their parameters live in the TrainState under the same names."""

    policy: Model
    critic: Model | None

    def params(self) -> dict[str, Any]:
        """What the optimiser sees: one tree, so that the gradient norm is clipped over both models together."""
        return {name: model.params for name, model in self.models().items()}

    def models(self) -> dict[str, Model]:
        """The policy and, where there is one, the critic, by name."""
        return {"policy": self.policy} | ({} if self.critic is None else {"critic": self.critic})

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

    def __post_init__(self) -> None:
        check_settings(
            "ppo", self, num_epochs=POSITIVE_INT, minibatch_size=POSITIVE_INT, microbatch_size=NATURAL,
            temperature=POSITIVE,
        )  # fmt: skip


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


def share(
    name: str,
    model: Model,
    part: Minibatch,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    settings: UpdateSettings,
) -> tuple[Float[Array, ""], losses.Stats]:
    """A part's share of its minibatch's loss and statistics, of `model` alone: the "policy" or the "critic"."""
    seen = part.rollout
    old, mask = losses.Old(seen.logprobs, seen.values, part.advantages, part.returns), seen.episodes.mask
    if name == "policy":
        outputs = policy_outputs(model, seen.episodes, temperature)
        return losses.policy_loss(old, mask, *outputs, denominator, settings.loss)
    values = critic_values(model, seen.critic_episodes)
    loss, stats = losses.value_loss(old, mask, values, denominator, settings.loss)
    return settings.loss.value_coefficient * loss, stats


@functools.partial(jax.jit, static_argnames=("name", "settings"), donate_argnames=("grads",))
def add_gradients(
    grads: Any,
    model: Model,
    part: Minibatch,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    *,
    name: str,
    settings: UpdateSettings,
) -> tuple[Any, losses.Stats]:
    """`grads` plus those of one micro-batch, float32, and its share of loss and statistics; `name` as in `share`."""

    def of_params(params: Any) -> tuple[Float[Array, ""], losses.Stats]:
        return share(name, model.with_params(params), part, denominator, temperature, settings)

    (loss, stats), found = jax.value_and_grad(of_params, has_aux=True)(model.params)
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, found), stats | {"loss": loss}


@functools.partial(jax.jit, static_argnames=("tx",), donate_argnames=("state",))
def apply_gradients(
    state: states.TrainState, grads: dict[str, Any], loss: Float[Array, ""] | None = None, *, tx: Optimizer
) -> tuple[states.TrainState, Float[Array, ""]]:
    """One optimiser step, skipped where a gradient or `loss` is not finite. Returns the new state and the gradient norm
    before clipping."""
    return states.apply_gradients(state, grads, tx, loss=loss)


def ppo_step(
    state: states.TrainState,
    learners: Learners,
    minibatch: Minibatch,
    *,
    tx: Optimizer,
    settings: UpdateSettings,
) -> tuple[states.TrainState, losses.Stats]:
    """One optimiser step on a minibatch (host arrays). Returns the new state and the step's mean statistics."""
    episodes = minibatch.rollout.episodes
    denominator = losses.num_positions(episodes.mask, settings.loss)
    temperature, computed = jnp.float32(settings.temperature), 0
    models, stats = learners.with_params(state.params).models(), dict[str, Any]()
    # Zeros, so that the first micro-batch of a width needs no program of its own.
    grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32, device=x.sharding), state.params)
    for rows in episodes.groups(settings.microbatch_size):
        taken = minibatch.take(rows)
        computed += taken.rollout.episodes.tokens.size
        part = parallel.put_batch(taken)
        for name, model in models.items():
            grads[name], shares = add_gradients(
                grads[name], model, part, denominator, temperature, name=name, settings=settings
            )
            for key, value in jax.device_get(shares).items():  # waits: the work space of one program at a time
                stats[key] = stats.get(key, 0.0) + value
    del models, model  # the optimiser overwrites their parameters
    state, norm = apply_gradients(state, grads, jnp.float32(stats["loss"]), tx=tx)
    padding = computed / np.sum(episodes.prompt_lengths + episodes.lengths) - 1  # padding slots for each real token
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

    Episodes are shuffled again each epoch. `learners` gives structure only.
    """
    steps = []
    for rows in _minibatches(len(batch.advantages), settings, seed):
        state, stats = ppo_step(state, learners, batch.take(rows), tx=tx, settings=settings)
        steps.append({name: float(value) for name, value in stats.items()})
    return state, steps


def _minibatches(total: int, settings: UpdateSettings, seed: int) -> Iterator[Int[np.ndarray, " M"]]:
    """Rows of each optimiser step, epoch after epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(settings.num_epochs):
        order = rng.permutation(total)
        for first in range(0, total, settings.minibatch_size):
            yield order[first : first + settings.minibatch_size]


def first_epoch(episodes: Episodes, settings: UpdateSettings, seed: int) -> Iterator[Int[np.ndarray, " M"]]:
    """Rows of each micro-batch of the first epoch of `update` with this seed, in its order."""
    total = len(episodes.lengths)
    for rows in _minibatches(total, dataclasses.replace(settings, num_epochs=1), seed):
        for group in episodes.take(rows).groups(settings.microbatch_size):
            yield rows[group]
