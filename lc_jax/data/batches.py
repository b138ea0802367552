"""Padding, bucketing and shuffling: ragged token sequences become arrays of a few fixed shapes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

Tokens = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Padded:
    """Sequences padded to one length."""

    tokens: Int[np.ndarray, "N T"]  # int32
    starts: Int[np.ndarray, " N"]  # int32, position of each row's first real token
    lengths: Int[np.ndarray, " N"]  # int32, real tokens of each row


def pad(sequences: Sequence[Tokens], length: int, *, pad_id: int = 0, side: str = "right") -> Padded:
    """Pads `sequences` to [N, length]: after the real tokens (side="right") or before them (side="left").

    Raises:
      ValueError: a sequence is longer than `length`.
    """
    tokens = np.full((len(sequences), length), pad_id, np.int32)
    lengths = np.asarray([len(sequence) for sequence in sequences], np.int32)
    starts = np.zeros_like(lengths) if side == "right" else length - lengths
    for row, sequence in enumerate(sequences):
        if len(sequence) > length:
            raise ValueError(f"Sequence {row} has {len(sequence)} tokens; the batch is {length} wide.")
        tokens[row, starts[row] : starts[row] + len(sequence)] = sequence
    return Padded(tokens, starts, lengths)


def shared_prefix_length(sequences: Sequence[Tokens]) -> int:
    """Returns the length of the prefix that all sequences (at least one) share, at least one token short of each."""
    equal = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False))
    return min(sum(1 for _ in equal), min(map(len, sequences)) - 1)


def bucket_lengths() -> Iterator[int]:
    """Yields 16, 24, 32, 48, 64, 96, ...: few lengths mean few compilations."""
    for power in itertools.count(4):
        yield from (2**power, 3 * 2 ** (power - 1))


def bucket_length(length: int) -> int:
    """Returns the smallest of `bucket_lengths` that is >= `length`: at most a third of a row is padding.

    Where all lengths are known beforehand, `bucket_boundaries` needs less padding.
    """
    return next(bucket for bucket in bucket_lengths() if bucket >= length)


def _multiple(length: int) -> int:
    return max(4, 2 ** (length.bit_length() - 1) // 8)


def round_up_to_multiple(length: int) -> int:
    """Returns the next multiple of 4, or of an eighth of the power of two below `length` where that is more.

    There are more such lengths than `bucket_lengths`, with at most an eighth of padding.
    """
    return -(-length // _multiple(length)) * _multiple(length)


def round_down_to_multiple(length: int) -> int:
    """Returns the last multiple of the number of `round_up_to_multiple` that is <= `length`."""
    return length // _multiple(length) * _multiple(length)


def bucket_boundaries(lengths: Int[np.ndarray, " N"], max_padding: float = 0.05) -> Int[np.ndarray, " W"]:
    """Returns the fewest bucket lengths, ascending, with which padding is at most `max_padding` of all tokens.

    Each row goes into the first bucket that holds it. Among as many buckets, those with the least padding are returned.
    """
    lengths, counts = np.unique(lengths, return_counts=True)
    rows_before = np.concatenate([[0], np.cumsum(counts)])  # rows shorter than lengths[i]
    # Dynamic programming: positions[j] is the least number of positions for the j shortest lengths in len(starts)
    # buckets, and starts[-1][j - 1] is the number of the first length in the last of these buckets.
    positions = np.full(len(rows_before), np.inf)
    positions[0], starts = 0, []
    while not positions[-1] <= (1 + max_padding) * np.sum(lengths * counts):
        # The last bucket has lengths[j - 1] positions and holds the lengths from number i on.
        totals = positions[None, :-1] + (rows_before[1:, None] - rows_before[None, :-1]) * lengths[:, None]
        totals[np.triu_indices(len(lengths), 1)] = np.inf
        starts.append(totals.argmin(axis=1))
        positions = np.concatenate([[0], totals.min(axis=1)])
    boundaries, j = [], len(lengths)
    for first in reversed(starts):
        if j:
            boundaries.append(lengths[j - 1])
            j = first[j - 1]
    return np.asarray(boundaries[::-1])


def group_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[np.ndarray]:
    """Yields the indices of at most `batch_size` rows of similar length at a time, shortest first.

    The last group may be smaller; callers fill it with dummy rows so that its shape repeats.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


class BatchIndices:
    """The row indices of training batch `step`: a function of (lengths, batch size, seed) and nothing else.

    Each epoch is shuffled again. Within windows of 16 batches, rows of similar length go into one batch, so that little
    padding is computed. Rows that do not fill a batch are left out of that epoch.

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
        self._epoch, self._batches = -1, np.zeros((0, batch_size), np.int64)  # the latest epoch, cached

    def __call__(self, step: int) -> Int[np.ndarray, " B"]:
        """Returns the rows of batch `step`, counted from 0 over all epochs."""
        epoch, index = divmod(step, self.batches_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            rows = rng.permutation(len(self._lengths))[: self.batches_per_epoch * self._batch_size]
            size = self.WINDOW * self._batch_size
            windows = [rows[first : first + size] for first in range(0, len(rows), size)]
            rows = np.concatenate([w[np.argsort(self._lengths[w], kind="stable")] for w in windows])
            self._epoch, self._batches = epoch, rng.permutation(rows.reshape(-1, self._batch_size))
        return self._batches[index]
