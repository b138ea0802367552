"""Checkpoint folders: scalar models, configs that are refused, saves that fail."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from lc_jax import main
from lc_jax.models import classification, folders, hf, layout, registry, tensors
from lc_jax.models.transformer import trainable
from tests.models.conftest import edit, edit_config, random_model

# --- scalar models ---


def test_keys_of_a_reward_model(mesh, tmp_path):
    hf.save(tmp_path / "model", random_model(mesh, kind="scalar"))
    keys = set(load_file(tmp_path / "model" / "model.safetensors"))
    assert {k for k in keys if not k.startswith("backbone_model.")} == {"reward_head.weight", "reward_head.bias"}
    assert {"backbone_model.lm_head.weight", "backbone_model.model.layers.1.mlp.up_proj.weight"} <= keys
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    assert raw["model_type"] == "reward_model"
    assert raw["backbone_config"]["model_type"] == "llama"
    assert folders.config_of(tmp_path / "model")[1] == "scalar"


def test_a_language_model_gets_a_zero_head(mesh, folder):
    model = hf.load(folder, mesh, kind="scalar")
    plain = hf.load(folder, mesh)
    values = model.bind()(jnp.ones((1, 3), jnp.int32))
    np.testing.assert_array_equal(values, 0.0)
    for a, b in zip(jax.tree.leaves(model.params["backbone_model"]), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fresh_head(mesh, tmp_path):
    saved = random_model(mesh, kind="scalar")
    hf.save(tmp_path / "model", saved)
    fresh = hf.load(tmp_path / "model", mesh, kind="scalar", fresh_head=True)
    np.testing.assert_array_equal(fresh.bind().reward_head.weight[...], 0.0)
    np.testing.assert_array_equal(fresh.bind().reward_head.bias[...], 0.0)
    np.testing.assert_array_equal(
        fresh.bind().backbone_model.embedding[...], saved.bind().backbone_model.embedding[...]
    )
    reloaded = hf.load(tmp_path / "model", mesh, kind="scalar")
    np.testing.assert_array_equal(reloaded.bind().reward_head.weight[...], saved.bind().reward_head.weight[...])


def test_a_reward_model_is_no_language_model(mesh, tmp_path):
    hf.save(tmp_path / "model", random_model(mesh, kind="scalar"))
    with pytest.raises(ValueError, match="is a reward model; a language model is needed here"):
        hf.load(tmp_path / "model", mesh)


def test_a_missing_reward_head_is_named(mesh, tmp_path):
    hf.save(tmp_path / "model", random_model(mesh, kind="scalar"))
    edit(tmp_path / "model", lambda t: t.pop("reward_head.bias"))
    with pytest.raises(ValueError, match=r"missing: reward_head\.bias"):
        hf.load(tmp_path / "model", mesh, kind="scalar")


def test_a_backbone_folder_beside_the_reward_model(mesh, tmp_path, folder):
    """The published folders only name their backbone."""
    hf.save(tmp_path / "reward", random_model(mesh, kind="scalar"))
    raw = {"model_type": "reward_model", "backbone_model_name_or_path": "/somewhere/else/model"}
    (tmp_path / "reward" / "config.json").write_text(json.dumps(raw))
    config, kind = folders.config_of(tmp_path / "reward")
    assert (config, kind) == (folders.config_of(folder)[0], "scalar")
    folder.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"names its backbone '/somewhere/else/model'"):
        folders.config_of(tmp_path / "reward")


def test_only_the_unused_head_of_a_scalar_model_is_not_trained(mesh):
    model = random_model(mesh, kind="scalar")
    frozen = [path for path, flag in registry.named_leaves(trainable(model.params)) if not flag]
    assert frozen == [("backbone_model", "head", "kernel")]
    assert all(jax.tree.leaves(trainable(random_model(mesh).params)))


def test_no_gradient_reaches_what_is_not_trained(mesh):
    """Parameters without gradients add nothing to the norm by which all are clipped."""
    model, tokens = random_model(mesh, kind="scalar"), jnp.arange(1, 13).reshape(2, 6)
    grads = jax.jit(jax.grad(lambda params: jnp.sum(model.with_params(params).bind()(tokens) ** 2)))(model.params)
    reached = [bool(jnp.any(g != 0)) for g in jax.tree.leaves(grads)]
    assert reached == jax.tree.leaves(trainable(model.params))


# --- what is not implemented ---


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("tiny-llama", dict(hidden_act="gelu"), "hidden_act='gelu'"),
        ("tiny-llama", dict(sliding_window=128), "sliding_window"),
        ("tiny-llama", dict(quantization_config=dict(quant_method="gptq")), "quantization_config"),
        ("tiny-llama", dict(rope_scaling=dict(type="dynamic", factor=2.0)), "rope scaling of type 'dynamic'"),
        ("tiny-llama", dict(rope_parameters=dict(rope_type="ntk", factor=2.0)), "rope scaling of type 'ntk'"),
        ("tiny-llama", dict(model_type="mixtral"), "model_type='mixtral'"),
        ("tiny-llama", dict(num_local_experts=8), "num_local_experts=8: mixtures of experts"),
        ("tiny-llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
        ("tiny-gpt-neox", dict(hidden_act="gelu_10"), "hidden_act='gelu_10'"),
        ("tiny-gpt-neox", dict(rope_scaling=dict(rope_type="dynamic", factor=2.0)), "rope scaling of type 'dynamic'"),
    ],
)
def test_unsupported_features_are_refused_by_name(mesh, tmp_path, preset, changes, message):
    hf.save(tmp_path / "model", random_model(mesh, preset))
    edit_config(tmp_path / "model", **changes)
    with pytest.raises(ValueError, match=message):
        hf.load(tmp_path / "model", mesh)


def test_rotary_settings_of_both_generations_of_config(mesh, folder):
    """rope_theta and rope_scaling (transformers 4) mean the same as rope_parameters (transformers 5)."""
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    edit_config(folder, rope_theta=5e5, rope_scaling=scaling | dict(rope_type="llama3"))
    old = folders.config_of(folder)[0]
    edit_config(
        folder, rope_theta=None, rope_scaling=None, rope_parameters=scaling | dict(rope_type="llama3", rope_theta=5e5)
    )
    assert folders.config_of(folder)[0] == old
    assert old.rope.theta == 5e5
    assert old.rope.scaling.factor == 8.0


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"No preset 'llama-9'.*tiny-llama"):
        registry.from_preset("llama-9")


# --- a save that fails ---


def test_nothing_is_left_when_a_save_fails_half_way(mesh, tmp_path, monkeypatch):
    names = []

    def fail_on_the_third(file, spec, value):
        if len(names) == 2:
            raise OSError("disk full")
        names.append(spec.key)
        write_tensor(file, spec, value)

    write_tensor = tensors._write_tensor
    monkeypatch.setattr(tensors, "_write_tensor", fail_on_the_third)
    with pytest.raises(OSError, match="disk full"):
        hf.save(tmp_path / "model", random_model(mesh), max_shard_bytes=12_000)
    assert len(names) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_older_folder(mesh, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(tensors, "_write_tensor", fail)
    with pytest.raises(OSError, match="disk full"):
        hf.save(folder, random_model(mesh, "tiny-gpt-neox"))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


class Full:
    """Writes tokenizer files until the disk is full; the Rust writer of tokenizers raises no OSError."""

    def save(self, folder):
        (folder / "tokenizer.json").write_text("{")
        raise Exception("No space left on device (os error 28)")


@pytest.mark.parametrize("save", [hf.save, classification.save])
@pytest.mark.parametrize("place", ["tensors", "tokenizer"])
def test_a_full_disk_ends_in_one_line_and_leaves_the_former_folder(mesh, tmp_path, monkeypatch, save, place):
    model, writes, write_tensor = random_model(mesh, kind="scalar"), [], tensors._write_tensor

    def write_until_full(file, spec, value):
        writes.append(spec)
        if len(writes) == 3 and place == "tensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_tensor(file, spec, value)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("former")
    monkeypatch.setattr(tensors, "_write_tensor", write_until_full)
    with pytest.raises(OSError, match="No space left on device") as error:
        save(tmp_path / "model", model, tokenizer=Full())
    lines, code = main.explain(error.value)
    assert (len(lines), code) == (1, 1)
    assert lines[0].startswith(f"{tmp_path}/model is not written: ")
    assert "Free some space and run the same command again" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "config.json").read_text() == "former"


def test_other_failures_of_a_writer_are_raised_as_they_are(tmp_path):
    with pytest.raises(KeyError), layout.new_folder(tmp_path / "model"):
        raise KeyError("a bug")
    assert not list(tmp_path.iterdir())
