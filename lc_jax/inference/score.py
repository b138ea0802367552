"""Log-probabilities, entropies, values and rewards of sequences, in fixed batch shapes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference.prefix import Prefix, compute_prefix, prefix_length
from lc_jax.kernels import dispatch
from lc_jax.kernels.attention import PADDING, SHARED_PREFIX
from lc_jax.models.transformer import Model


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """Scores of one sequence by a causal model; entry t is about token t + 1, conditioned on the tokens up to t."""

    logprobs: list[float]  # nats, length = number of tokens - 1
    entropies: list[float]  # nats, of the whole next-token distribution


@jax.jit
def sequence_logprobs(
    model: Model, tokens: Int[Array, "B T"], lengths: Int[Array, " B"], temperature: Float[Array, ""]
) -> tuple[Float[Array, "B T-1"], Float[Array, "B T-1"]]:
    """Computes the log-probability (nats) of each token after the first, and the entropy there; right-padded rows."""
    module = model.bind()
    hidden = module(tokens, lengths)
    return module.logprobs(hidden[:, :-1], tokens[:, 1:], temperature)


@jax.jit
def _continuation_logprobs(
    model: Model,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    temperature: Float[Array, ""],
    prefix: Prefix,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Computes the log-probability (nats) of each token of right-padded rows behind a prefix, and the entropy there."""
    module = model.bind()
    hidden = module(tokens, lengths, prefix=prefix.cache)
    last = jnp.broadcast_to(prefix.hidden[:, -1:], (len(tokens), 1, hidden.shape[2]))
    return module.logprobs(jnp.concatenate([last, hidden[:, :-1]], axis=1), tokens, temperature)


@jax.jit
def _prefix_logprobs(
    model: Model, prefix: Prefix, tokens: Int[Array, "1 C"], temperature: Float[Array, ""]
) -> tuple[Float[Array, "1 C-1"], Float[Array, "1 C-1"]]:
    return model.bind().logprobs(prefix.hidden[:, :-1], tokens[:, 1:], temperature)


@jax.jit
def sequence_rewards(model: Model, tokens: Int[Array, "B T"], lengths: Int[Array, " B"]) -> Float[Array, " B"]:
    """Reads the scalar head at each row's last real token, float32."""
    values = model.bind()(tokens, lengths)
    return jnp.take_along_axis(values, jnp.maximum(lengths[:, None] - 1, 0), axis=1)[:, 0]


def _in_batches(sequences: Sequence[batches.Tokens], batch_size: int) -> Iterator[tuple[np.ndarray, tuple]]:
    """Yields (rows, (tokens, lengths)) of right-padded batches, filled with one-token dummy rows."""
    for rows in batches.group_by_length([len(s) for s in sequences], batch_size):
        chosen = [sequences[i] for i in rows] + [[0]] * (batch_size - len(rows))
        padded = batches.pad(chosen, batches.round_up_to_multiple(max(1, *map(len, chosen))))
        yield rows, parallel.put_batch((padded.tokens, padded.lengths))


def _is_fused(model: Model) -> bool:
    config = model.config
    return dispatch.attention_implementation(config.kernels, config.dtype, config.head_dim) in dispatch.FUSED


def stream_logprobs(
    model: Model, sequences: Sequence[batches.Tokens], *, batch_size: int, temperature: float = 1.0
) -> Iterator[tuple[int, TokenScores]]:
    """Yields (index, scores), batch by batch.

    The prefix that all sequences share is computed once where it is the longer part of each (see `prefix_length`) and
    attention is not a fused kernel, none of which takes a prefix.
    """
    model, number = model.as_bits(), jnp.float32(temperature)
    num_shared = 0 if _is_fused(model) else prefix_length(sequences)
    before = TokenScores([], [])
    score: Callable[..., tuple[jax.Array, jax.Array]] = sequence_logprobs
    if num_shared:
        tokens = sequences[0][:num_shared]
        prefix = compute_prefix(model, tokens)
        out = _prefix_logprobs(model, prefix, parallel.put_batch(np.asarray([tokens], np.int32)), number)
        before = TokenScores(*(parallel.to_host(x)[0].tolist() for x in out))
        score = functools.partial(_continuation_logprobs, prefix=prefix)
    padded = _in_batches([sequence[num_shared:] for sequence in sequences], batch_size)
    for rows, out in parallel.prefetch((rows, score(model, *arrays, number)) for rows, arrays in padded):
        logprobs, entropies = map(parallel.to_host, out)
        for place, index in enumerate(rows):
            n = max(len(sequences[index]) - 1 - len(before.logprobs), 0)
            yield (
                int(index),
                TokenScores(
                    before.logprobs + logprobs[place, :n].tolist(), before.entropies + entropies[place, :n].tolist()
                ),
            )


def stream_rewards(
    model: Model, sequences: Sequence[batches.Tokens], *, batch_size: int
) -> Iterator[tuple[int, float]]:
    """Yields (index, reward logit), batch by batch."""
    model, padded = model.as_bits(), _in_batches(sequences, batch_size)
    for rows, out in parallel.prefetch((rows, sequence_rewards(model, *arrays)) for rows, arrays in padded):
        values = parallel.to_host(out)
        yield from ((int(index), float(values[place])) for place, index in enumerate(rows))


@jax.jit
def packed_rewards(model: Model, tokens: Int[Array, "B T"], segment_ids: Int[Array, "B T"]) -> Float[Array, "B T"]:
    """Computes the scalar head at every token of rows with packed suffixes, float32; see `CausalLM`."""
    return model.bind()(tokens, segment_ids=segment_ids)


@dataclasses.dataclass(frozen=True)
class _PackedRow:
    """Sequences in one row: the prefix they share, then the rest of each."""

    prefix: batches.Tokens
    suffixes: list[batches.Tokens]

    def tokens(self) -> list[int]:
        return [*self.prefix, *itertools.chain(*self.suffixes)]

    def segment_ids(self) -> list[int]:
        ids = [[number] * len(suffix) for number, suffix in enumerate(self.suffixes, 1)]
        return [*[SHARED_PREFIX] * len(self.prefix), *itertools.chain(*ids)]

    def last_tokens(self) -> Int[np.ndarray, " K"]:
        """Positions of the last token of each sequence."""
        return len(self.prefix) + np.cumsum([len(suffix) for suffix in self.suffixes]) - 1


def _pack(group: Sequence[batches.Tokens]) -> list[_PackedRow]:
    """Packs sequences into one row, or each into a row of its own where they differ in more than they share."""
    shared = batches.shared_prefix_length(group)
    suffixes = [sequence[shared:] for sequence in group]
    if sum(map(len, suffixes)) <= max(shared, batches.bucket_length(1)):
        return [_PackedRow(group[0][:shared], suffixes)]
    return [_PackedRow([], [sequence]) for sequence in group]


def group_rewards(
    model: Model, groups: Sequence[Sequence[batches.Tokens]], *, batch_size: int
) -> list[Float[np.ndarray, " K"]]:
    """Computes reward logits of sequences in groups, float32; the prefix that a group shares is computed once.

    Args:
      groups: for example one paragraph with one answer after the other; each sequence has at least one token.
      batch_size: rows at once; a row holds a group, or one sequence of a group that shares little.
    """
    if not groups:
        return []
    group_numbers, rows = [], []
    for number, group in enumerate(groups):
        packed = _pack(group)
        group_numbers += [number] * len(packed)
        rows += packed

    model = model.as_bits()

    def dispatch() -> Iterator[tuple[np.ndarray, jax.Array]]:
        for chosen in batches.group_by_length([len(row.tokens()) for row in rows], batch_size):
            dummies = [_PackedRow([], [[0]])] * (batch_size - len(chosen))
            batch = [*(rows[i] for i in chosen), *dummies]
            width = batches.round_up_to_multiple(max(len(row.tokens()) for row in batch))
            tokens = batches.pad([row.tokens() for row in batch], width).tokens
            segment_ids = batches.pad([row.segment_ids() for row in batch], width, pad_id=PADDING).tokens
            yield chosen, packed_rewards(model, *parallel.put_batch((tokens, segment_ids)))

    rewards: list[list[np.ndarray]] = [[] for _ in groups]
    by_row: dict[int, np.ndarray] = {}
    for chosen, out in parallel.prefetch(dispatch()):
        values = parallel.to_host(out)
        by_row |= {int(i): values[place, rows[i].last_tokens()] for place, i in enumerate(chosen)}
    for i, number in enumerate(group_numbers):
        rewards[number].append(by_row[i])
    return [np.concatenate(parts) for parts in rewards]
