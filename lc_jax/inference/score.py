"""Log-probabilities, entropies, values and rewards of given sequences, in a few fixed batch shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.models.transformer import Model


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """What a causal model thinks of one sequence; entry t is about token t + 1 given the tokens up to t."""

    logprobs: list[float]  # nats, length = number of tokens - 1
    entropies: list[float]  # nats, of the whole next-token distribution


@jax.jit
def sequence_logprobs(
    model: Model, tokens: Int[Array, "B T"], spans: Int[Array, "B 2"], temperature: Float[Array, ""]
) -> tuple[Float[Array, "B T-1"], Float[Array, "B T-1"]]:
    """Log-probability (nats) of each token after the first, and the entropy there; right-padded rows."""
    module = model.bind()
    hidden = module(tokens, spans)
    return module.logprobs(hidden[:, :-1], tokens[:, 1:], temperature)


@jax.jit
def sequence_rewards(model: Model, tokens: Int[Array, "B T"], spans: Int[Array, "B 2"]) -> Float[Array, " B"]:
    """The scalar head at each row's last real token, float32."""
    values = model.bind()(tokens, spans)
    return jnp.take_along_axis(values, jnp.maximum(spans[:, 1:] - 1, 0), axis=1)[:, 0]


def _in_batches(sequences: Sequence[batches.Tokens], batch_size: int) -> Iterator[tuple[np.ndarray, tuple]]:
    """Yields (rows, (tokens, spans)) of right-padded batches, filled with one-token dummy rows."""
    for rows in batches.by_length([len(s) for s in sequences], batch_size):
        chosen = [sequences[i] for i in rows] + [[0]] * (batch_size - len(rows))
        padded = batches.pad(chosen, batches.bucket(max(map(len, chosen))))
        yield rows, parallel.put_batch((padded.tokens, padded.spans))


def stream_logprobs(
    model: Model, sequences: Sequence[batches.Tokens], *, batch_size: int, temperature: float = 1.0
) -> Iterator[tuple[int, TokenScores]]:
    """Yields (index, scores) as batches finish."""
    for rows, arrays in _in_batches(sequences, batch_size):
        logprobs, entropies = map(parallel.to_host, sequence_logprobs(model, *arrays, jnp.float32(temperature)))
        for place, index in enumerate(rows):
            n = max(len(sequences[index]) - 1, 0)
            yield int(index), TokenScores(logprobs[place, :n].tolist(), entropies[place, :n].tolist())


def stream_rewards(
    model: Model, sequences: Sequence[batches.Tokens], *, batch_size: int
) -> Iterator[tuple[int, float]]:
    """Yields (index, reward logit) as batches finish."""
    for rows, arrays in _in_batches(sequences, batch_size):
        values = parallel.to_host(sequence_rewards(model, *arrays))
        yield from ((int(index), float(values[place])) for place, index in enumerate(rows))


def rewards(model: Model, sequences: Sequence[batches.Tokens], *, batch_size: int) -> Float[np.ndarray, " N"]:
    """Reward logits in the order of `sequences`, float32."""
    result = np.zeros(len(sequences), np.float32)
    for index, value in stream_rewards(model, sequences, batch_size=batch_size):
        result[index] = value
    return result
