"""Rewards of sequences that begin alike: what is computed once changes nothing."""

import jax
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.inference import score
from tests.models.conftest import PRESETS, random_model

RNG = np.random.default_rng(0)


def tokens(count):
    return RNG.integers(3, 64, count).tolist()


COMMON = [tokens(n) for n in (20, 1, 9, 33)]
GROUPS = [
    [COMMON[0] + tail for tail in ([7], [7, 8, 9], tokens(12), [9])],
    [COMMON[1] + [5]],  # one sequence
    [COMMON[2], COMMON[2] + [4, 4]],  # one is the beginning of the other
    [[3], [4, 5, 6]],  # nothing in common
    [COMMON[3] + tail for tail in (tokens(3), tokens(5))],
]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2)])
def test_each_sequence_has_the_reward_it_has_alone(preset, shape):
    mesh = parallel.make_mesh(*shape)
    with jax.set_mesh(mesh):
        model = random_model(mesh, preset, "scalar")
        together = score.rewards(model, GROUPS, batch_size=8)
        alone = dict(score.stream_rewards(model, [s for group in GROUPS for s in group], batch_size=8))
    expected = np.asarray([alone[i] for i in range(len(alone))])
    assert np.ptp(expected) > 0.1
    assert [len(found) for found in together] == [len(group) for group in GROUPS]
    np.testing.assert_allclose(
        np.concatenate(together), expected, rtol=1e-4, atol=1e-4
    )  # weights this large magnify rounding
