"""Log-probabilities, entropies, values and rewards of given sequences, in a few fixed batch shapes."""

from __future__ import annotations

import dataclasses
import itertools
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
    for rows in batches.group_by_length([len(s) for s in sequences], batch_size):
        chosen = [sequences[i] for i in rows] + [[0]] * (batch_size - len(rows))
        padded = batches.pad(chosen, batches.bucket_length(max(map(len, chosen))))
        yield rows, parallel.put_batch((padded.tokens, padded.spans))


def stream_logprobs(
    model: Model, sequences: Sequence[batches.Tokens], *, batch_size: int, temperature: float = 1.0
) -> Iterator[tuple[int, TokenScores]]:
    """Yields (index, scores), batch by batch."""
    given = _in_batches(sequences, batch_size)
    scored = ((rows, sequence_logprobs(model, *arrays, jnp.float32(temperature))) for rows, arrays in given)
    for rows, out in parallel.prefetch(scored):
        logprobs, entropies = map(parallel.to_host, out)
        for place, index in enumerate(rows):
            n = max(len(sequences[index]) - 1, 0)
            yield int(index), TokenScores(logprobs[place, :n].tolist(), entropies[place, :n].tolist())


def stream_rewards(
    model: Model, sequences: Sequence[batches.Tokens], *, batch_size: int
) -> Iterator[tuple[int, float]]:
    """Yields (index, reward logit), batch by batch."""
    given = _in_batches(sequences, batch_size)
    for rows, out in parallel.prefetch((rows, sequence_rewards(model, *arrays)) for rows, arrays in given):
        values = parallel.to_host(out)
        yield from ((int(index), float(values[place])) for place, index in enumerate(rows))


@jax.jit
def branch_rewards(
    model: Model,
    tokens: Int[Array, "B W"],
    spans: Int[Array, "B 2"],
    tails: Int[Array, "B U"],
    branches: Int[Array, "B U"],
) -> Float[Array, "B U"]:
    """The scalar head at every token of the continuations of each row, float32; see `CausalLM.branch`."""
    module = model.bind()
    return module.reward_head(module.backbone_model.branch(tokens, spans, tails, branches))


def group_rewards(
    model: Model, groups: Sequence[Sequence[batches.Tokens]], *, batch_size: int
) -> list[Float[np.ndarray, " K"]]:
    """Reward logits of sequences in groups, float32; what all sequences of a group begin with is computed once.

    Args:
      groups: for example one paragraph with one answer after the other; each sequence has at least one token.
      batch_size: groups at once.
    """
    parts = [(index, part) for index, group in enumerate(groups) for part in _together(group)]
    cuts = [batches.shared_prefix_length(part) for _, part in parts]
    lengths = [cut + _tail(part, cut) for (_, part), cut in zip(parts, cuts, strict=True)]

    def dispatch() -> Iterator[tuple[np.ndarray, list[np.ndarray], jax.Array]]:
        for rows in batches.group_by_length(lengths, batch_size):
            dummies = batch_size - len(rows)
            beginnings = [parts[i][1][0][: cuts[i]] for i in rows] + [[0]] * dummies
            tails = [[s[cuts[i] :] for s in parts[i][1]] for i in rows] + [[]] * dummies
            joined = [list(itertools.chain(*several)) for several in tails]
            ids = [np.repeat(np.arange(len(several)), list(map(len, several))).tolist() for several in tails]
            common = batches.pad(beginnings, batches.bucket_length(max(map(len, beginnings))))
            width = batches.round_up_to_multiple(max(map(len, joined)))
            branches = batches.pad(joined, width).tokens, batches.pad(ids, width, pad_id=-1).tokens
            arrays = parallel.put_batch((common.tokens, common.spans, *branches))
            yield rows, [np.cumsum(list(map(len, several))) - 1 for several in tails], branch_rewards(model, *arrays)

    found: list[np.ndarray] = [np.zeros(0, np.float32)] * len(parts)
    for rows, ends, out in parallel.prefetch(dispatch()):
        values = parallel.to_host(out)
        for place, index in enumerate(rows):
            found[index] = values[place, ends[place]]
    result: list[list[np.ndarray]] = [[] for _ in groups]
    for (index, _), values in zip(parts, found, strict=True):
        result[index].append(values)
    return [np.concatenate(values) for values in result]


def _tail(group: Sequence[batches.Tokens], cut: int) -> int:
    return sum(len(sequence) - cut for sequence in group)


def _together(group: Sequence[batches.Tokens]) -> list[Sequence[batches.Tokens]]:
    """The group, or each sequence for itself where they have less in common than they differ in."""
    cut = batches.shared_prefix_length(group)
    return [group] if _tail(group, cut) <= max(cut, batches.bucket_length(1)) else [[sequence] for sequence in group]
