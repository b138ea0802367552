"""Planted induction heads: a word that was seen before brings what followed it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pretrain
from lc_jax import parallel
from lc_jax.miniature import induction
from lc_jax.models import registry


def fresh(family, mesh, **changes):
    config = pretrain.get_config(family)
    raw = config.shape.to_dict() | {"model_type": family, "vocab_size": config.vocab_size} | changes
    return registry.initialize(registry.config_from_hf(raw, **config.precision), jax.random.key(0), mesh)


@jax.jit
def greedy(model, tokens):
    """The most probable next token of every position."""
    module = model.bind()
    return jnp.argmax(module.logits(module(tokens)), axis=-1)


def share_copied(model):
    """Returns the share of copied tokens where 40 random tokens are repeated; all but the first can be copied."""
    listed = np.stack([np.random.default_rng(row).permutation(2000)[:40] + 10 for row in range(20)])
    guesses = greedy(model, jnp.asarray(np.tile(listed, 2)))
    return float(np.mean(np.asarray(guesses)[:, 40:79] == listed[:, 1:]))


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt_neox", marks=pytest.mark.slow)])
def test_a_planted_model_copies_before_any_training(family):
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        model = fresh(family, mesh)
        planted = induction.plant(model, seed=0)
        assert share_copied(model) < 0.02
        assert share_copied(planted) > 0.5
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), model.params)
        assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), planted.params)


def test_a_model_without_room_is_refused():
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="two layers"):
        induction.plant(fresh("llama", mesh, num_hidden_layers=1), seed=0)
