"""The one way to pad: ragged token sequences become arrays of a few fixed shapes, in an order that can be resumed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Padded:
    """Sequences in one rectangle."""

    tokens: Int[np.ndarray, "N T"]  # int32
    spans: Int[np.ndarray, "N 2"]  # int32, row n's real tokens are the slots spans[n, 0] <= t < spans[n, 1]


def pad(sequences: Sequence[Tokens], length: int, *, pad_id: int = 0, side: str = "right") -> Padded:
    """Lays `sequences` into an [N, length] rectangle, real tokens at the left (side="right") or at the right end.

    Raises:
      ValueError: a sequence is longer than `length`.
    """
    tokens = np.full((len(sequences), length), pad_id, np.int32)
    spans = np.zeros((len(sequences), 2), np.int32)
    for row, sequence in enumerate(sequences):
        if len(sequence) > length:
            raise ValueError(f"Sequence {row} has {len(sequence)} tokens; the batch is {length} wide.")
        start = 0 if side == "right" else length - len(sequence)
        tokens[row, start : start + len(sequence)] = sequence
        spans[row] = start, start + len(sequence)
    return Padded(tokens, spans)


def common_beginning(sequences: Sequence[Tokens]) -> int:
    """How many tokens all sequences (of at least one) begin with, so that each has at least one more."""
    same = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False))
    return min(sum(1 for _ in same), min(map(len, sequences)) - 1)


def buckets() -> Iterator[int]:
    """16, 24, 32, 48, 64, 96, ...: few widths mean few compilations."""
    for power in itertools.count(4):
        yield from (2**power, 3 * 2 ** (power - 1))


def bucket(length: int) -> int:
    """The smallest of `buckets` that is >= `length`: at most a third of a row is padding.

    Where all lengths are known beforehand, `widths` leaves less padding.
    """
    return next(width for width in buckets() if width >= length)


def snug(length: int) -> int:
    """The next multiple of 4, or of an eighth of the power of two below: more widths, at most an eighth of padding."""
    step = max(4, 2 ** (length.bit_length() - 1) // 8)
    return -(-length // step) * step


def widths(lengths: Int[np.ndarray, " N"], spare: float = 0.05) -> Int[np.ndarray, " W"]:
    """The fewest widths, ascending, with which padding is at most `spare` of all tokens.

    Each row takes the first width that holds it; among as many widths, those that leave the least padding.
    """
    lengths, numbers = np.unique(lengths, return_counts=True)
    before = np.concatenate([[0], np.cumsum(numbers)])  # rows shorter than lengths[i]
    slots = np.full(len(before), np.inf)  # that the j shortest kinds take, in as many widths as there are `cuts`
    slots[0], cuts = 0, []
    while not slots[-1] <= (1 + spare) * np.sum(lengths * numbers):
        # The last width is lengths[j - 1], and holds the kinds from number i on.
        totals = slots[None, :-1] + (before[1:, None] - before[None, :-1]) * lengths[:, None]
        totals[np.triu_indices(len(lengths), 1)] = np.inf
        cuts.append(totals.argmin(axis=1))
        slots = np.concatenate([[0], totals.min(axis=1)])
    chosen, j = [], len(lengths)
    for first in reversed(cuts):
        if j:
            chosen.append(lengths[j - 1])
            j = first[j - 1]
    return np.asarray(chosen[::-1])


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Yields index groups of at most `batch_size` rows of similar length, shortest first.

    The last group may be smaller; callers fill it with dummy rows so that its shape repeats.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


class Order:
    """Which examples make up training batch `step`: a function of (lengths, batch size, seed) and nothing else.

    Each epoch is shuffled anew; within windows of 16 batches, examples of similar length come together, so that little
    padding is computed. The remainder that does not fill a batch is left out of that epoch.

    Raises:
      ValueError: there are fewer examples than one batch holds.
    """

    WINDOW = 16

    def __init__(self, lengths: Int[np.ndarray, " N"], batch_size: int, seed: int) -> None:
        if len(lengths) < batch_size:
            raise ValueError(
                f"{len(lengths)} training examples cannot fill one batch of {batch_size}; lower batch_size."
            )
        self._lengths, self._batch_size, self._seed = np.asarray(lengths), batch_size, seed
        self.batches_per_epoch = len(lengths) // batch_size
        self._epoch, self._order = -1, np.zeros((0, batch_size), np.int64)

    def __call__(self, step: int) -> Int[np.ndarray, " B"]:
        """Rows of batch `step`, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            rows = rng.permutation(len(self._lengths))[: self.batches_per_epoch * self._batch_size]
            size = self.WINDOW * self._batch_size
            windows = [rows[first : first + size] for first in range(0, len(rows), size)]
            rows = np.concatenate([w[np.argsort(self._lengths[w], kind="stable")] for w in windows])
            self._epoch, self._order = epoch, rng.permutation(rows.reshape(-1, self._batch_size))
        return self._order[place]
