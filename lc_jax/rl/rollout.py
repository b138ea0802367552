"""Scoring of a rollout: policy, reference and critic run over what the policy wrote (paper section 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.models.transformer import Model
from lc_jax.rl.batch import Episodes


def score_rollout(
    policy: Model,
    reference: Model,
    critic: Model | None,
    episodes: Episodes,
    *,
    temperature: float,
    groups: Iterable[Int[np.ndarray, " M"]],
) -> Episodes:
    """Returns the episodes (host arrays) with log-probabilities, entropies and values of the three models.

    Args:
      groups: rows that are computed together; each row is in one of them. Those of the update's micro-batches
        (`Episodes.first_microbatches`) keep shapes equal: the ratio before the first update is 1 in float32, and in
        bfloat16 within the rounding noise, since the update's program, which has a gradient, may round differently.
    """

    models = ("policy",) if critic is None else ("policy", "critic")

    def dispatch() -> Iterator[tuple[np.ndarray, dict[str, jax.Array]]]:
        for rows in groups:
            part = parallel.put_batch(episodes.microbatch(rows).read_by(*models))
            yield rows, forward(policy, reference, critic, part, jnp.float32(temperature))

    scored: dict[str, Any] = {}
    for rows, numbers in parallel.prefetch(dispatch()):
        for name, values in numbers.items():
            array = scored.setdefault(name, np.zeros(episodes.old_logprobs.shape, np.float32))
            array[rows, : values.shape[1]] = parallel.to_host(values)
    return dataclasses.replace(episodes, **scored)


@jax.jit
def forward(
    policy: Model, reference: Model, critic: Model | None, episodes: Episodes, temperature: Float[Array, ""]
) -> dict[str, Float[Array, "B T"]]:
    """Returns the four numbers of each response token that the models compute, by their names in Episodes."""
    logprobs, entropies = policy_outputs(policy, episodes, temperature)
    ref_logprobs, _ = policy_outputs(reference, episodes, temperature)
    values = jnp.zeros_like(logprobs) if critic is None else critic_values(critic, episodes)
    return {"old_logprobs": logprobs, "entropies": entropies, "ref_logprobs": ref_logprobs, "old_values": values}


def policy_outputs(
    policy: Model, episodes: Episodes, temperature: Float[Array, ""]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Returns each response token's log-probability (0 past the end) and the entropy at its position, nats."""
    module, shared = policy.bind(), episodes.shared
    if shared is None:
        hidden = module(episodes.tokens, episodes.prompt_lengths + episodes.lengths)
        hidden = gather_response_positions(hidden, episodes.prompt_lengths, episodes.responses.shape[1])
    else:
        hidden = _gather_columns(module(shared.tokens, segment_ids=shared.segment_ids), shared.columns)
    logprobs, entropies = module.logprobs(hidden, episodes.responses, temperature)
    return jnp.where(episodes.mask, logprobs, 0.0), entropies


def _gather_columns(hidden: Float[Array, "R W D"], columns: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """Returns what SharedPrompts.columns point to, the common column of the first tokens apart.

    So no two gradients that are not zero are added to one column by a scatter, whose order a GPU does not fix.
    """
    num_rows, _, dim = hidden.shape
    columns = columns.reshape(num_rows, -1, columns.shape[1])
    first = jnp.take_along_axis(hidden, columns[:, :1, 0, None], axis=1)
    others = jnp.take_along_axis(hidden, columns[:, :, 1:].reshape(num_rows, -1, 1), axis=1)
    firsts = jnp.broadcast_to(first[:, None], (*columns.shape[:2], 1, dim))
    gathered = jnp.concatenate([firsts, others.reshape(*columns.shape[:2], -1, dim)], axis=2)
    return gathered.reshape(-1, columns.shape[2], dim)


def critic_values(critic: Model, episodes: Episodes) -> Float[Array, "B T"]:
    """Returns V_t, the scalar head before response token t."""
    starts = episodes.critic_prompt_lengths
    values = critic.bind()(episodes.critic_tokens, starts + episodes.lengths)
    return gather_response_positions(values, starts, episodes.responses.shape[1])


def gather_response_positions(
    values: Float[Array, "B S *D"], prompt_lengths: Int[Array, " B"], num_positions: int
) -> Float[Array, "B T *D"]:
    """Returns `values` at the position before each response token, where the token is predicted and its value read."""
    positions = prompt_lengths[:, None] - 1 + jnp.arange(num_positions)
    positions = jnp.minimum(positions, values.shape[1] - 1)  # past the end any number will do, but it must be finite
    return jnp.take_along_axis(values, positions.reshape(*positions.shape, *(1,) * (values.ndim - 2)), axis=1)
