"""Rewards of sequences that begin alike: what is computed once changes nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference import score
from lc_jax.models import registry
from tests.models.conftest import random_model

RNG = np.random.default_rng(0)


def tokens(count):
    return RNG.integers(3, 64, count).tolist()


COMMON = [tokens(n) for n in (20, 1, 9, 33)]
GROUPS = [
    [COMMON[0] + tail for tail in ([7], [7, 8, 9], tokens(12), [9])],
    [COMMON[1] + [5]],  # one sequence
    [COMMON[2], COMMON[2] + [4, 4], COMMON[2]],  # one is the beginning of the other, and comes twice
    [[3], [4, 5, 6]],  # nothing shared
    [COMMON[0] + tokens(30), COMMON[0] + tokens(30)],  # less shared than not
    [COMMON[3] + tail for tail in (tokens(3), tokens(5))],
]


def model_of(preset, mesh, kernels):
    model = random_model(mesh, preset, "scalar")
    config = dataclasses.replace(model.config, kernels=kernels)
    return registry.abstract_model(config, "scalar", mesh).with_params(model.params)


@pytest.mark.parametrize(
    ("preset", "shape", "kernels"),
    [
        ("tiny-llama", (4, 2, 1), "auto"),
        ("tiny-gpt-neox", (2, 2, 2), "auto"),
        ("tiny-llama", (2, 2, 2), "splash"),
        pytest.param("tiny-gpt-neox", (4, 2, 1), "auto", marks=pytest.mark.slow),
        pytest.param("tiny-llama", (2, 2, 2), "auto", marks=pytest.mark.slow),
        pytest.param("tiny-gpt-neox", (2, 2, 2), "splash", marks=pytest.mark.slow),
    ],
)
def test_each_sequence_has_the_reward_it_has_alone(preset, shape, kernels):
    mesh = parallel.make_mesh(*shape)
    with jax.set_mesh(mesh):
        together = score.group_rewards(model_of(preset, mesh, kernels), GROUPS, batch_size=4 if shape[0] < 4 else 8)
        flat = [s for group in GROUPS for s in group]
        alone = dict(score.stream_rewards(model_of(preset, mesh, "portable"), flat, batch_size=8))
    expected = np.asarray([alone[i] for i in range(len(alone))])
    assert np.ptp(expected) > 0.1
    assert [len(scores) for scores in together] == [len(group) for group in GROUPS]
    np.testing.assert_allclose(np.concatenate(together), expected, rtol=1e-4, atol=1e-4)  # large weights magnify


def test_no_groups():
    assert score.group_rewards(None, [], batch_size=4) == []


def test_a_shared_prefix_leaves_each_sequence_a_token():
    counts = [batches.shared_prefix_length(group) for group in GROUPS]
    assert counts == [20, 1, 8, 0, 20, 33]
