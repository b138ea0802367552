"""Episodes -> new parameters: epochs x minibatches x micro-batches of the clipped objective.

Micro-batches are programs of their own, so that each is only as wide as its longest episode; so are policy and critic,
so that one of them at a time has activations and new gradients.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
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
from lc_jax.rl.batch import Episodes
from lc_jax.rl.rollout import critic_values, policy_outputs
from lc_jax.training import state as states
from lc_jax.training.optimizer import Optimizer


@flax.struct.dataclass
class ActorCritic:
    """The two models that PPO trains, as structures: their parameters are in the TrainState under the same names."""

    policy: Model
    critic: Model | None

    def params(self) -> dict[str, Any]:
        """Returns one tree for the optimiser, so that the gradient norm is clipped over both models together."""
        return {name: model.params for name, model in self.models().items()}

    def models(self) -> dict[str, Model]:
        """Returns the policy and, where there is one, the critic, by name."""
        return {"policy": self.policy} | ({} if self.critic is None else {"critic": self.critic})

    def with_params(self, params: dict[str, Any] | None) -> ActorCritic:
        """Returns these structures with other parameters (or none)."""
        get = (params or {}).get
        critic = None if self.critic is None else self.critic.with_params(get("critic"))
        return ActorCritic(self.policy.with_params(get("policy")), critic)


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


def policy_objective(
    policy: Model,
    episodes: Episodes,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    settings: losses.LossSettings,
) -> tuple[Float[Array, ""], losses.Stats]:
    """Returns what some episodes of a minibatch add to the policy's clipped loss, and to the statistics."""
    logprobs, entropies = policy_outputs(policy, episodes, temperature)
    return losses.policy_loss(episodes, logprobs, entropies, denominator, settings)


def value_objective(
    critic: Model,
    episodes: Episodes,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    settings: losses.LossSettings,
) -> tuple[Float[Array, ""], losses.Stats]:
    """Returns what some episodes add to the critic's clipped loss; values have no temperature."""
    loss, stats = losses.value_loss(episodes, critic_values(critic, episodes), denominator, settings)
    return settings.value_coefficient * loss, stats


Objective = Callable[..., tuple[Float[Array, ""], losses.Stats]]
OBJECTIVES: dict[str, Objective] = {"policy": policy_objective, "critic": value_objective}


@functools.partial(jax.jit, static_argnames=("objective", "settings"), donate_argnames=("grads",))
def add_gradients(
    grads: Any,
    model: Model,
    episodes: Episodes,
    denominator: Float[Array, ""],
    temperature: Float[Array, ""],
    *,
    objective: Objective,
    settings: losses.LossSettings,
) -> tuple[Any, losses.Stats]:
    """Returns `grads` plus those of one micro-batch (float32), and what it adds to loss and statistics."""

    def loss_fn(params: Any) -> tuple[Float[Array, ""], losses.Stats]:
        return objective(model.with_params(params), episodes, denominator, temperature, settings)

    (loss, stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(model.params)
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), grads, gradients), stats | {"loss": loss}


@functools.partial(jax.jit, static_argnames=("tx",), donate_argnames=("state",))
def apply_gradients(
    state: states.TrainState, grads: dict[str, Any], loss: Float[Array, ""] | None = None, *, tx: Optimizer
) -> tuple[states.TrainState, Float[Array, ""]]:
    """One optimiser step, skipped where a gradient or `loss` is not finite.

    Returns the new state and the gradient norm before clipping.
    """
    return states.apply_gradients(state, grads, tx, loss=loss)


def ppo_step(
    state: states.TrainState,
    structure: ActorCritic,
    minibatch: Episodes,
    *,
    tx: Optimizer,
    settings: UpdateSettings,
) -> tuple[states.TrainState, losses.Stats]:
    """One optimiser step on a minibatch (host arrays). Returns the new state and the step's mean statistics."""
    denominator = losses.num_positions(minibatch.mask, settings.loss)
    temperature, num_computed = jnp.float32(settings.temperature), 0
    models, stats = structure.with_params(state.params).models(), dict[str, Any]()
    # Zeros, so that the first micro-batch of a width needs no program of its own.
    grads = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32, device=x.sharding), state.params)
    for rows in minibatch.groups(settings.microbatch_size):
        microbatch = minibatch.take(rows)
        num_computed += microbatch.tokens.size
        on_devices = parallel.put_batch(microbatch)
        for name, model in models.items():
            grads[name], shares = add_gradients(
                grads[name], model, on_devices, denominator, temperature,
                objective=OBJECTIVES[name], settings=settings.loss,
            )  # fmt: skip
            for key, value in jax.device_get(shares).items():  # waits: the work space of one program at a time
                stats[key] = stats.get(key, 0.0) + value
    del models, model  # the optimiser overwrites their parameters
    state, norm = apply_gradients(state, grads, jnp.float32(stats["loss"]), tx=tx)
    num_tokens = np.sum(minibatch.prompt_lengths + minibatch.lengths)
    padding = num_computed / num_tokens - 1  # padding positions for each real token
    return state, stats | {"grad_norm": norm, "skipped_in_a_row": state.skipped, "padding": padding}


def update(
    state: states.TrainState,
    structure: ActorCritic,
    episodes: Episodes,
    *,
    tx: Optimizer,
    settings: UpdateSettings,
    seed: int,
) -> tuple[states.TrainState, list[dict[str, float]]]:
    """All optimiser steps on one rollout (host arrays). Returns the new state and each step's statistics.

    Episodes are shuffled again each epoch.
    """
    steps = []
    for rows in _minibatches(len(episodes.lengths), settings, seed):
        state, stats = ppo_step(state, structure, episodes.take(rows), tx=tx, settings=settings)
        steps.append({name: float(value) for name, value in stats.items()})
    return state, steps


def _minibatches(total: int, settings: UpdateSettings, seed: int) -> Iterator[Int[np.ndarray, " M"]]:
    """Yields the rows of each optimiser step, epoch after epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(settings.num_epochs):
        order = rng.permutation(total)
        for first in range(0, total, settings.minibatch_size):
            yield order[first : first + settings.minibatch_size]


def first_epoch(episodes: Episodes, settings: UpdateSettings, seed: int) -> Iterator[Int[np.ndarray, " M"]]:
    """Yields the rows of each micro-batch of the first epoch of `update` with this seed, in its order."""
    for rows in _minibatches(len(episodes.lengths), dataclasses.replace(settings, num_epochs=1), seed):
        for group in episodes.take(rows).groups(settings.microbatch_size):
            yield rows[group]
