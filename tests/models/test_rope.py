"""Ropes by hand: frequencies of four planes under each scaling, and tables of several ropes."""

import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import SCALINGS, LongRope, Rope, Yarn, angles, read_rope

DIM = 8  # planes 0 to 3 turn by 1, 1/10, 1/100 and 1/1000 of a radian with base 10000
PLAIN = np.array([1.0, 0.1, 0.01, 0.001])


def frequencies(**group):
    return read_rope(ConfigFile(group), 10000.0, 64).inverse_frequencies(DIM)


def test_default_and_linear():
    np.testing.assert_allclose(frequencies(), PLAIN, rtol=1e-6)
    np.testing.assert_allclose(frequencies(rope_type="linear", factor=4.0), PLAIN / 4, rtol=1e-6)
    np.testing.assert_allclose(frequencies(type="linear", factor=4.0, rope_theta=1.0), [0.25] * 4, rtol=1e-6)


def test_yarn_blends_by_the_number_of_the_plane():
    """Over 628.3 positions the planes turn 100, 10, 1 and 0.1 times: those of 10 and more stay, of 1 are stretched."""
    group = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=628, truncate=False)
    np.testing.assert_allclose(frequencies(**group, beta_fast=10.0, beta_slow=1.0), PLAIN / [1, 1, 4, 4], rtol=2e-3)
    # From plane 0 to plane 2: plane 1 is halfway.
    blended = frequencies(**group, beta_fast=100.0, beta_slow=1.0)
    np.testing.assert_allclose(blended, PLAIN * [1, (1 + 1 / 4) / 2, 1 / 4, 1 / 4], rtol=2e-3)


def test_amplitudes():
    yarn = Yarn(factor=np.e**10, original_max_position_embeddings=64)
    assert yarn.amplitude(0) == pytest.approx(2.0)  # 0.1 ln(factor) + 1
    assert Yarn(factor=4.0, original_max_position_embeddings=64, attention_factor=1.5).amplitude(0) == 1.5
    long = LongRope(short_factor=(1.0,), long_factor=(2.0,), original_max_position_embeddings=16)
    assert long.amplitude(16) == 1.0
    assert long.amplitude(256) == pytest.approx(2**0.5)  # sqrt(1 + ln 16 / ln 16)


def test_longrope_divides_by_short_factors():
    group = dict(rope_type="longrope", short_factor=[1.0, 2.0, 4.0, 8.0], long_factor=[9.0] * 4)
    np.testing.assert_allclose(frequencies(**group), PLAIN / [1, 2, 4, 8], rtol=1e-6)


def test_a_scaling_is_written_as_it_was_read():
    for name, group in {
        "linear": dict(factor=2.0),
        "yarn": dict(factor=2.0, original_max_position_embeddings=32, mscale=0.7, truncate=False),
        "longrope": dict(short_factor=[1.0], long_factor=[2.0], original_max_position_embeddings=32, factor=8.0),
    }.items():
        rope = read_rope(ConfigFile(group | {"rope_type": name}), 100.0, 64)
        assert rope.to_hf() == group | {"rope_type": name}
        assert isinstance(rope.scaling, SCALINGS[name])
    assert Rope(100.0).to_hf() == {}


def test_tables_of_several_ropes():
    """The second does not rotate, the third has the angles of base 1; an amplitude multiplies both tables."""
    twice = Rope(10000.0, Yarn(factor=1.0, original_max_position_embeddings=64, attention_factor=2.0))
    positions = jnp.array([[0, 3]])
    cos, sin = angles([twice, None, Rope(1.0)], DIM, 64, positions, 4)
    assert cos.shape == sin.shape == (3, 1, 2, 4)
    np.testing.assert_allclose(cos[0, 0, 1], 2 * np.cos(3 * PLAIN), rtol=1e-5)
    np.testing.assert_allclose(sin[0, 0, 1], 2 * np.sin(3 * PLAIN), rtol=1e-5)
    np.testing.assert_array_equal(cos[1], 1)
    np.testing.assert_array_equal(sin[1], 0)
    np.testing.assert_allclose(sin[2, 0, 1], np.sin(3) * np.ones(4), rtol=1e-5)
    assert angles([twice], DIM, 64, positions, 4)[0].shape == (1, 2, 4)


def test_a_scaling_names_what_it_lacks():
    with pytest.raises(ValueError, match="factor is missing"):
        frequencies(rope_type="linear")
    with pytest.raises(ValueError, match="short_factor must be a list of numbers"):
        frequencies(rope_type="longrope", short_factor="1", long_factor=[1.0])
    with pytest.raises(ValueError, match=r"rope_theta 1.0 .* must be above 1"):
        frequencies(rope_type="yarn", factor=2.0, rope_theta=1.0)
