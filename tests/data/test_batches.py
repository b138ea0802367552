"""Padding, bucket widths and the order of training batches."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_jax.data import batches


def test_pad_right():
    padded = batches.pad([[5, 6, 7], [], [8]], 4, pad_id=9)
    assert padded.tokens.tolist() == [[5, 6, 7, 9], [9, 9, 9, 9], [8, 9, 9, 9]]
    assert (padded.starts.tolist(), padded.lengths.tolist()) == ([0, 0, 0], [3, 0, 1])
    assert padded.tokens.dtype == padded.starts.dtype == padded.lengths.dtype == np.int32


def test_pad_left():
    padded = batches.pad([[5, 6, 7], [], [8]], 4, pad_id=9, side="left")
    assert padded.tokens.tolist() == [[9, 5, 6, 7], [9, 9, 9, 9], [9, 9, 9, 8]]
    assert (padded.starts.tolist(), padded.lengths.tolist()) == ([1, 4, 3], [3, 0, 1])


@given(st.lists(st.lists(st.integers(0, 99), max_size=12), min_size=1, max_size=6), st.sampled_from(["left", "right"]))
def test_starts_and_lengths_give_the_sequences_back(sequences, side):
    padded = batches.pad(sequences, 12, side=side)
    rows = zip(padded.tokens, padded.starts, padded.lengths, strict=True)
    assert [row[start : start + length].tolist() for row, start, length in rows] == sequences


def test_a_sequence_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"Sequence 1 has 5 tokens; the batch is 4 wide"):
        batches.pad([[1], [1] * 5], 4)


def test_bucket_lengths():
    assert sorted({batches.bucket_length(n) for n in range(200)}) == [16, 24, 32, 48, 64, 96, 128, 192, 256]
    assert [batches.bucket_length(n) for n in (0, 16, 17, 24, 25, 96, 97)] == [16, 16, 24, 24, 32, 96, 128]


@given(st.integers(16, 100_000))
def test_at_most_a_third_of_a_row_is_padding(length):
    bucket = batches.bucket_length(length)
    assert length <= bucket
    assert 3 * (bucket - length) <= bucket


def test_multiples_are_at_most_an_eighth_apart():
    assert [batches.round_up_to_multiple(n) for n in (0, 1, 4, 31, 33, 65, 100, 129)] == [0, 4, 4, 32, 36, 72, 104, 144]
    assert [batches.round_down_to_multiple(n) for n in (0, 3, 7, 31, 35, 71, 103, 143)] == [
        0,
        0,
        4,
        28,
        32,
        64,
        96,
        128,
    ]


def test_boundaries_are_the_fewest_possible_and_the_best_of_these():
    """Compares with every choice of boundaries, on small sets of lengths."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        lengths, max_padding = rng.integers(1, 12, int(rng.integers(1, 20))), float(rng.choice([0.0, 0.05, 0.3]))
        distinct, boundaries = np.unique(lengths), batches.bucket_boundaries(lengths, max_padding)
        least_positions = {
            count: min(
                num_positions(lengths, np.asarray([*option, distinct[-1]]))
                for option in itertools.combinations(distinct[:-1], count - 1)
            )
            for count in range(1, len(distinct) + 1)
        }
        fewest = min(
            count for count, positions in least_positions.items() if positions <= (1 + max_padding) * lengths.sum()
        )
        assert len(boundaries) == fewest
        assert num_positions(lengths, boundaries) == least_positions[fewest]


def num_positions(lengths, boundaries):
    return boundaries[np.searchsorted(boundaries, lengths)].sum()


def test_training_batches_compute_little_padding():
    """At most 15 % of the tokens that are computed are padding, with the lengths of prompts with paragraphs."""
    rng = np.random.default_rng(0)
    lengths = 100 + rng.gamma(4.0, 40.0, 2000).astype(int)
    indices, boundaries = batches.BatchIndices(lengths, 32, seed=0), batches.bucket_boundaries(lengths)
    rows = [indices(step) for step in range(indices.batches_per_epoch)]
    computed = sum(32 * boundaries[np.searchsorted(boundaries, lengths[r].max())] for r in rows)
    assert computed <= 1.15 * sum(lengths[r].sum() for r in rows)


def test_groups_by_length_take_every_row_once_shortest_first():
    lengths = [5, 1, 4, 4, 9, 2, 7]
    groups = [g.tolist() for g in batches.group_by_length(lengths, 3)]
    assert groups == [[1, 5, 2], [3, 0, 6], [4]]
    assert list(batches.group_by_length([], 3)) == []


def lengths(number):
    return np.random.default_rng(0).integers(1, 500, number)


@pytest.mark.parametrize(("number", "batch_size"), [(64, 4), (64, 64), (1000, 8)])
def test_every_example_once_an_epoch(number, batch_size):
    indices = batches.BatchIndices(lengths(number), batch_size, seed=0)
    for epoch in range(3):
        steps = range(epoch * indices.batches_per_epoch, (epoch + 1) * indices.batches_per_epoch)
        assert sorted(np.concatenate([indices(s) for s in steps])) == list(range(number))


def test_the_remainder_differs_from_epoch_to_epoch():
    indices = batches.BatchIndices(lengths(11), 4, seed=0)
    assert indices.batches_per_epoch == 2
    leftovers = []
    for epoch in range(8):
        rows = np.concatenate([indices(2 * epoch), indices(2 * epoch + 1)])
        assert len(set(rows)) == 8
        leftovers.append(frozenset(range(11)) - set(rows))
    assert len(set(leftovers)) > 1


def test_a_batch_depends_on_its_step_alone():
    """Resuming needs the same batch in any order of calls and from any instance."""
    steps = np.random.default_rng(1).permutation(60)
    first, second = (batches.BatchIndices(lengths(77), 4, seed=3) for _ in range(2))
    forwards = [first(s).tolist() for s in range(60)]
    for step in steps:
        assert second(int(step)).tolist() == forwards[step]
        assert batches.BatchIndices(lengths(77), 4, seed=3)(int(step)).tolist() == forwards[step]


def test_seeds_and_epochs_shuffle_again():
    one, other = (batches.BatchIndices(lengths(64), 4, seed=s) for s in (0, 1))
    assert [one(i).tolist() for i in range(16)] != [other(i).tolist() for i in range(16)]
    assert [one(i).tolist() for i in range(16)] != [one(i).tolist() for i in range(16, 32)]


def test_examples_of_similar_length_come_together():
    many = lengths(1024)
    indices = batches.BatchIndices(many, 8, seed=0)
    spread = [np.ptp(many[indices(s)]) for s in range(indices.batches_per_epoch)]
    assert np.mean(spread) < np.ptp(many) / 4
    means = np.array([many[indices(s)].mean() for s in range(indices.batches_per_epoch)])
    assert np.any(np.diff(means) > 0)  # the batches themselves come in no order of length
    assert np.any(np.diff(means) < 0)


def test_too_few_examples():
    with pytest.raises(ValueError, match=r"3 training examples cannot fill one batch of 4"):
        batches.BatchIndices(lengths(3), 4, seed=0)
