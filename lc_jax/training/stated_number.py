"""The expected score of a stated number in closed form: supervised fine-tuning of confidence, without samples.

A text with a place for a number, "Rome ({confidence}%)", is completed by each candidate, 0 to 100. The model's
probabilities of the candidates are a distribution over stated confidences, whose expected Brier or log score against
the outcome is the loss. Reference: ConfTuner, Li et al. 2025 (arXiv 2508.18847), where each candidate is one token;
here it is as many as the tokenizer makes of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lc_jax.data import batches
from lc_jax.data.examples import PLACE
from lc_jax.data.tokenizer import Tokenizer
from lc_jax.models.transformer import Model
from lc_jax.training.loop import Arrays, Dataset, LossFn, Sums
from lc_jax.types import Example

EPSILON = 1e-4  # probabilities below it count as it in the log score


@dataclasses.dataclass(frozen=True)
class Candidates:
    """One example with C candidates: R rows of tokens in which the model reads all that it needs."""

    rows: tuple[tuple[int, ...], ...]
    # Of each candidate its own tokens, those in which it differs: (row, position before the token, token).
    tokens: tuple[tuple[tuple[int, int, int], ...], ...]
    label: float  # the outcome, in [0, 1]


def encode(tokenizer: Tokenizer, example: Example, step: int, max_length: int) -> Candidates | None:
    """Encodes an example whose target has one PLACE; None if a candidate has more than `max_length` tokens.

    The own tokens of a candidate lie between the prefix and the suffix that all candidates share. Where those of one
    begin those of another (1, 10, 100, digit by digit), the token after the number belongs to them: it ends the number.
    Rows that begin another row are left out: one is enough where each candidate is one token.
    """
    where = f"example {example.example_id!r}"
    texts = [example.target.replace(PLACE, str(number)) for number in range(0, 101, step)]
    sequences = [
        [*tokenizer.encode_pair(example.prompt, text, where)[0], tokenizer.end_id(example.prompt)] for text in texts
    ]
    if max(map(len, sequences)) > max_length:
        return None
    first = batches.shared_prefix_length(sequences)
    num_shared = batches.shared_prefix_length([sequence[first:][::-1] for sequence in sequences])  # from the end
    own = [tuple(sequence[first : len(sequence) - num_shared]) for sequence in sequences]
    if any(a != b and b[: len(a)] == a for a in own for b in own):
        own = [tuple(sequence[first : len(sequence) - num_shared + 1]) for sequence in sequences]
    inputs = [tuple(sequence[: first + len(o) - 1]) for sequence, o in zip(sequences, own, strict=True)]
    rows = [row for row in dict.fromkeys(inputs) if not any(row != r and r[: len(row)] == row for r in inputs)]
    tokens = []
    for row, o in zip(inputs, own, strict=True):
        number = next(n for n, r in enumerate(rows) if r[: len(row)] == row)
        tokens.append(tuple((number, first - 1 + i, token) for i, token in enumerate(o)))
    return Candidates(tuple(rows), tuple(tokens), example.label)


def dataset(encoded: Sequence[Candidates]) -> Dataset:
    """Returns batches of B examples: their rows [B, R, S], and of each candidate its own tokens [B, C, N]."""
    num_rows = max((len(e.rows) for e in encoded), default=1)
    num_tokens = max((len(own) for e in encoded for own in e.tokens), default=1)
    longest = np.asarray([max(map(len, e.rows)) for e in encoded])
    boundaries = batches.bucket_boundaries(longest)

    def collate(indices: np.ndarray) -> Arrays:
        examples = [encoded[max(i, 0)] for i in indices]  # a dummy row is the first example with weight 0
        length = boundaries[np.searchsorted(boundaries, max(len(row) for e in examples for row in e.rows))]
        padded = batches.pad([row for e in examples for row in (*e.rows, *[(0,)] * (num_rows - len(e.rows)))], length)
        own = np.full((len(examples), len(examples[0].tokens), num_tokens, 3), -1, np.int32)
        for place, candidates in enumerate(e.tokens for e in examples):
            for number, triples in enumerate(candidates):
                own[place, number, : len(triples)] = triples
        return {
            "tokens": padded.tokens.reshape(len(examples), num_rows, -1),
            "lengths": padded.lengths.reshape(len(examples), num_rows),
            "candidates": own,  # (row, position, token), -1 where a candidate has fewer tokens
            "labels": np.asarray([e.label for e in examples], np.float32),
            "weights": (indices >= 0).astype(np.float32),
        }

    return Dataset(np.asarray([sum(map(len, e.rows)) for e in encoded]), collate)


def candidate_logprobs(model: Model, batch: Mapping[str, Array]) -> Float[Array, "B C"]:
    """Returns the log-probability of each candidate, the sum over its own tokens, nats."""
    count, num_rows, length = batch["tokens"].shape
    module = model.bind()
    hidden = module(batch["tokens"].reshape(-1, length), batch["lengths"].reshape(-1))
    hidden = hidden.reshape(count, num_rows * length, -1)
    mask = batch["candidates"][..., 0] >= 0
    rows, positions, tokens = (jnp.maximum(batch["candidates"][..., i], 0).reshape(count, -1) for i in range(3))
    hidden = jnp.take_along_axis(hidden, (rows * length + positions)[..., None], axis=1)
    logprobs, _ = module.logprobs(hidden, tokens, jnp.float32(1.0))
    return jnp.sum(jnp.where(mask, logprobs.reshape(mask.shape), 0.0), axis=-1)


def expected_score(
    logprobs: Float[Array, "B C"], values: Float[Array, " C"], labels: Float[Array, " B"], score: str
) -> Float[Array, " B"]:
    """Returns the expected loss of a stated value against the outcome, values drawn from softmax(logprobs).

    "brier": (value - 1)^2 with the weight of the label, value^2 with the rest; "log": -log value and -log(1 - value).
    """
    if score == "brier":
        right, wrong = jnp.square(1 - values), jnp.square(values)
    else:
        right, wrong = (-jnp.log(jnp.maximum(p, EPSILON)) for p in (values, 1 - values))
    probs = jax.nn.softmax(logprobs, axis=-1)
    return labels * (probs @ right) + (1 - labels) * (probs @ wrong)


def _loss(score: str, model: Model, batch: Mapping[str, Array]) -> Sums:
    logprobs, weights = candidate_logprobs(model, batch), batch["weights"]
    values = jnp.linspace(0.0, 1.0, logprobs.shape[1])
    losses = expected_score(logprobs, values, batch["labels"], score)
    confidence = jax.nn.softmax(logprobs, axis=-1) @ values
    mass = jnp.exp(jax.nn.logsumexp(logprobs, axis=-1))
    numbers = {"loss": losses, "confidence": confidence, "candidate_mass": mass}
    return {name: jnp.sum(weights * x) for name, x in numbers.items()} | {"weight": jnp.sum(weights)}


def expected_brier(model: Model, batch: Mapping[str, Array]) -> Sums:
    """Computes sums over real examples: expected Brier score, stated confidence, probability of all candidates."""
    return _loss("brier", model, batch)


def expected_log(model: Model, batch: Mapping[str, Array]) -> Sums:
    """Computes the same sums as `expected_brier` with the expected log score, nats."""
    return _loss("log", model, batch)


LOSSES: dict[str, LossFn] = {"expected_brier": expected_brier, "expected_log": expected_log}
