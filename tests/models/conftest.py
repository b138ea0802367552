"""A tiny checkpoint folder to damage, and what tests of folders share."""

import functools
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lc_jax import parallel
from lc_jax.models import hf, registry
from lc_jax.models.params import model_leaves
from lc_jax.models.transformer import Model

PRESETS = ["tiny-llama", "tiny-gpt-neox"]


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh()


@functools.cache
def random_model(mesh, preset="tiny-llama", kind="causal", **precision) -> Model:
    """Every tensor random, norms and heads too, so that no two can be confused."""
    model, rng = (
        registry.abstract_model(registry.from_preset(preset, **precision), kind, mesh),
        np.random.default_rng(0),
    )
    return model.with_params(
        jax.tree.map(lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding), model.params)
    )


def assert_same(a: Model, b: Model):
    """Bit for bit, and laid out alike."""
    assert a.config == b.config
    pairs = zip(model_leaves(a), model_leaves(b), strict=True)
    for (path, x), (other, y) in pairs:
        assert path == other
        assert x.dtype == y.dtype
        assert x.sharding == y.sharding
        np.testing.assert_array_equal(np.asarray(x).view(np.uint8), np.asarray(y).view(np.uint8), err_msg=str(path))


@pytest.fixture
def folder(mesh, tmp_path):
    """A saved tiny Llama, for tests that damage it."""
    hf.save(tmp_path / "model", random_model(mesh))
    return tmp_path / "model"


def edit(folder, change, name="model.safetensors"):
    """Rewrites the tensors of a folder."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)


def edit_config(folder, name="config.json", **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
