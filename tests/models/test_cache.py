"""The cache of keys and values: what is written is read, in both ways of storing it, and growing keeps it."""

import jax.numpy as jnp
import pytest

from lc_jax.models.cache import Cache

LAYERS, ROWS, HEADS, LENGTH, SIZE = 3, 2, 2, 5, 4


def empty(per_layer, length=LENGTH):
    return Cache.empty((LAYERS, ROWS, HEADS, length, SIZE), jnp.float32, per_layer=per_layer)


def numbers(cache):
    """The parameter of each layer: 0, 10 and 20."""
    return [0.0, 10.0, 20.0] if len(cache.keys) == LAYERS else 10.0 * jnp.arange(LAYERS)


def filled(cache, position):
    """Every layer writes its parameter + the row at `position` and the next; x counts the layers."""

    def step(x, number, layer):
        tokens = jnp.full((ROWS, 2, HEADS, SIZE), number) + jnp.arange(ROWS)[:, None, None, None]
        return x + 1, layer.write(tokens, -tokens, position)

    return cache.scan(step, jnp.int32(0), numbers(cache))


@pytest.mark.parametrize("per_layer", [True, False])
def test_a_layer_reads_what_it_wrote_after_growing_too(per_layer):
    count, cache = filled(empty(per_layer), 2)
    assert (int(count), cache.length, cache.prefix_length) == (LAYERS, LENGTH, 0)
    _, cache = filled(cache.grow(8), 6)
    read = []

    def step(x, number, layer):
        keys, values = layer.read()
        read.append(keys)
        return x + (keys - values)[..., 0] / 2, layer

    total, _ = cache.scan(step, jnp.zeros((ROWS, HEADS, 8)), numbers(cache))
    assert total[:, 0].tolist() == [[0, 0, 30, 30, 0, 0, 30, 30], [0, 0, 33, 33, 0, 0, 33, 33]]
    assert read[0].shape == (ROWS, HEADS, 8, SIZE)


@pytest.mark.parametrize("per_layer", [True, False])
def test_each_layer_has_its_own_part_of_a_shared_prefix(per_layer):
    _, prefix = filled(empty(per_layer, length=2), 0)
    cache = Cache(*(getattr(empty(per_layer), name) for name in ("keys", "values")), prefix)
    assert (cache.length, cache.prefix_length) == (LENGTH, 2)

    def step(x, number, layer):
        keys, values = layer.prefix
        return x + jnp.abs(keys - number).sum() + jnp.abs(values + number).sum(), layer

    total, after = cache.scan(step, jnp.float32(0), numbers(cache))
    assert float(total) == 2 * LAYERS * HEADS * 2 * SIZE  # row 1 is 1 more than row 0, in keys and in values
    assert after.prefix_length == 2
