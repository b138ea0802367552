"""Checkpoint folders that other tools leave: saved twice, tied by config alone, quantised, damaged, half downloaded."""

import json
import shutil

import jax
import numpy as np
import pytest

from lc_jax.models import folders, hf
from lc_jax.models.tensors import check_values
from tests.models.conftest import PRESETS, assert_same, edit, edit_config, random_model

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n"


@pytest.mark.parametrize("keep", ["index and shards", "index alone"])
def test_a_whole_file_wins_over_an_index_that_an_older_save_left(mesh, folder, tmp_path, keep):
    other = random_model(mesh, "tiny-llama", param_dtype="bfloat16")
    hf.save(tmp_path / "old", other, max_shard_bytes=12_000)
    for file in (tmp_path / "old").glob("model*"):
        if keep == "index and shards" or file.suffix == ".json":
            shutil.copy(file, folder / file.name)
    assert hf.stored_dtype(folder) == "float32"
    assert_same(hf.load(folder, mesh), random_model(mesh))


def test_an_index_that_names_no_files_is_named(mesh, tmp_path):
    hf.save(tmp_path / "model", random_model(mesh), max_shard_bytes=12_000)
    index = tmp_path / "model" / "model.safetensors.index.json"
    for text, message in (("{}", "has no weight_map"), ("[1]", "not a JSON object"), ("{", "is not JSON")):
        index.write_text(text)
        with pytest.raises(ValueError, match=rf"index\.json {message}|index\.json holds list, {message}"):
            hf.load(tmp_path / "model", mesh)


@pytest.mark.parametrize("kind", ["causal", "scalar"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_head_of_its_own_counts_although_the_config_says_tied(mesh, tmp_path, preset, kind):
    model = random_model(mesh, preset, kind)
    hf.save(tmp_path / "model", model)
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    (config if kind == "causal" else config["backbone_config"])["tie_word_embeddings"] = True
    path.write_text(json.dumps(config))
    assert_same(hf.load(tmp_path / "model", mesh, kind=kind), model)
    if kind == "causal":
        read, arrays = hf.read(tmp_path / "model", mesh)
        hf.save(tmp_path / "again", read, arrays=arrays)
        assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(tmp_path, dtype, value):
    values = np.asarray([[0.0, -1.0], [60000.0, 1e-7]], dtype)
    check_values(tmp_path, "w", values)
    check_values(tmp_path, "w", values.T)
    values[1, 0] = value
    with pytest.raises(ValueError, match="w holds NaN or infinities"):
        check_values(tmp_path, "w", values)


def test_a_checkpoint_with_nan_is_not_loaded(mesh, folder):
    edit(folder, lambda t: t["model.layers.1.mlp.up_proj.weight"].__setitem__((3, 4), np.nan))
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        hf.load(folder, mesh)


@pytest.mark.parametrize("key", ["lm_head.qweight", "model.layers.0.mlp.up_proj.weight_scale"])
def test_quantised_weights_are_refused(mesh, folder, key):
    edit(folder, lambda t: t.update({key: np.zeros((2, 2), np.float32)}))
    with pytest.raises(ValueError, match=rf"is quantised \({key}\).*dequantise"):
        hf.load(folder, mesh)


def test_whole_numbers_in_the_place_of_weights_are_refused(mesh, folder):
    edit(folder, lambda t: t.update({"lm_head.weight": np.zeros((256, 32), np.int8)}))
    with pytest.raises(ValueError, match=r"is quantised \(I8\)"):
        hf.load(folder, mesh)


def test_adapters_and_files_that_are_no_checkpoint_are_refused(folder, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileNotFoundError, match=r"model\.gguf is a file: make a folder of it by `lc_jax convert"):
        folders.check(tmp_path / "model.gguf")
    (folder / "model.safetensors").rename(folder / "q4.gguf")
    with pytest.raises(FileNotFoundError, match=r"has no weights.*`lc_jax convert --source=\S*q4\.gguf"):
        folders.check(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter_config\.json: peft_type=None is not read, only LORA"):
        folders.check(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize(("text", "message"), [(LFS, "is a git-lfs pointer.*git lfs pull"), ("", "is empty")])
def test_files_that_were_not_fetched_are_named(mesh, folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} {message}"):
        hf.load(folder, mesh)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("tiny-llama", dict(hidden_size=None), "hidden_size is missing"),
        ("tiny-llama", dict(num_attention_heads="4"), "num_attention_heads must be a whole number"),
        ("tiny-llama", dict(num_key_value_heads=3), "multiple of num_key_value_heads 3"),
        ("tiny-llama", dict(rms_norm_eps="1e-5"), "rms_norm_eps must be a number"),
        ("tiny-llama", dict(tie_word_embeddings="no"), "tie_word_embeddings must be true or false"),
        ("tiny-llama", dict(rope_scaling=[1]), "rope_scaling must be an object"),
        ("tiny-llama", dict(rope_scaling=dict(rope_type="llama3", factor=8.0)), "low_freq_factor is missing"),
        ("tiny-llama", dict(eos_token_id="</s>"), "eos_token_id"),
        ("tiny-gpt-neox", dict(vocab_size=0), "vocab_size must be a whole number"),
        ("tiny-gpt-neox", dict(hidden_size=33), "does not divide by num_attention_heads"),
        ("tiny-gpt-neox", dict(bos_token_id=-1), "bos_token_id must be a token id"),
        ("tiny-gpt-neox", dict(model_type=None), "model_type=None"),
    ],
)
def test_odd_values_of_a_config_are_named_with_file_and_key(mesh, tmp_path, preset, changes, message):
    hf.save(tmp_path / "model", random_model(mesh, preset))
    edit_config(tmp_path / "model", **changes)
    with pytest.raises(ValueError, match=rf"model/config\.json: .*{message}"):
        hf.load(tmp_path / "model", mesh)


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("tiny-llama", dict(pretraining_tp=2)),
        ("tiny-llama", dict(hidden_act="swish")),
        ("tiny-llama", dict(sliding_window=None)),
        ("tiny-llama", dict(sliding_window=128, use_sliding_window=False)),
        ("tiny-llama", dict(quantization_config=None, attention_bias=None, rope_scaling=None)),
        ("tiny-gpt-neox", dict(hidden_act="gelu_python")),
        ("tiny-gpt-neox", dict(partial_rotary_factor=None, rope_scaling=None)),
    ],
)
def test_keys_that_change_nothing_are_taken(mesh, tmp_path, preset, changes):
    model = random_model(mesh, preset)
    hf.save(tmp_path / "model", model)
    edit_config(tmp_path / "model", **changes)
    loaded = hf.load(tmp_path / "model", mesh)
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(a, b)
