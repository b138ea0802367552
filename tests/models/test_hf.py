"""Checkpoint folders: shards, what the load report names, vocabulary sizes, dtypes, scalar models, failed saves."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lc_jax import parallel
from lc_jax.models import hf, registry
from lc_jax.models.transformer import Model, trainable
from tests.golden import load

PRESETS = ["tiny-llama", "tiny-gpt-neox"]


@pytest.fixture(scope="module")
def mesh():
    return parallel.make_mesh()


@functools.cache
def random_model(mesh, preset="tiny-llama", kind="causal", **precision) -> Model:
    """Every tensor random, norms and heads too, so that no two can be confused."""
    model, rng = registry.abstract(registry.from_preset(preset, **precision), kind, mesh), np.random.default_rng(0)
    return model.with_params(
        jax.tree.map(lambda x: jax.device_put(rng.normal(size=x.shape).astype(x.dtype), x.sharding), model.params)
    )


def assert_same(a: Model, b: Model):
    """Bit for bit, and laid out alike."""
    assert a.config == b.config
    pairs = zip(registry.flat(a.params), registry.flat(b.params), strict=True)
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


def edit(folder, change):
    """Rewrites the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- there and back ---


@pytest.mark.parametrize("kind", ["causal", "scalar"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", PRESETS)
def test_round_trip_is_bitwise(mesh, tmp_path, preset, dtype, kind):
    model = random_model(mesh, preset, kind, param_dtype=dtype)
    hf.save(tmp_path / "model", model)
    assert hf.stored_dtype(tmp_path / "model") == dtype
    assert_same(hf.load(tmp_path / "model", mesh, kind=kind, param_dtype=dtype), model)


def test_other_dtype_on_the_way_out_and_in(mesh, tmp_path):
    model = random_model(mesh)
    hf.save(tmp_path / "model", model, dtype="bfloat16")
    assert hf.stored_dtype(tmp_path / "model") == "bfloat16"
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    wide = hf.load(tmp_path / "model", mesh)
    for a, b in zip(jax.tree.leaves(wide.params), jax.tree.leaves(model.params), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b.astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize("preset", PRESETS)
def test_shards_and_their_index(mesh, tmp_path, preset):
    model, limit = random_model(mesh, preset), 12_000
    hf.save(tmp_path / "model", model, max_shard_bytes=limit)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in (tmp_path / "model").glob("*.safetensors"))
    count = len(files)
    assert count > 2
    assert files == [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    held = {name: load_file(tmp_path / "model" / name) for name in files}
    assert index["weight_map"] == {key: name for name, tensors in held.items() for key in tensors}
    sizes = {name: sum(t.nbytes for t in tensors.values()) for name, tensors in held.items()}
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert all(sizes[n] <= limit or len(held[n]) == 1 for n in files)
    assert_same(hf.load(tmp_path / "model", mesh), model)


def test_saving_in_place_of_an_older_folder(mesh, tmp_path):
    model = random_model(mesh)
    hf.save(tmp_path / "model", model, max_shard_bytes=12_000)
    hf.save(tmp_path / "model", model)
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("shape", [dict(fsdp=8), dict(fsdp=4, tensor=2), dict(data=2, fsdp=2, tensor=2)])
def test_loading_onto_other_meshes(mesh, tmp_path, shape):
    model = random_model(mesh)
    hf.save(tmp_path / "model", model)
    loaded = hf.load(tmp_path / "model", parallel.make_mesh(**shape))
    for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tokenizer_files_are_copied(mesh, tmp_path):
    (tmp_path / "from").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "notes.txt"):
        (tmp_path / "from" / name).write_text("{}")
    hf.save(tmp_path / "model", random_model(mesh), tokenizer=tmp_path / "from")
    names = {p.name for p in (tmp_path / "model").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    assert "notes.txt" not in names
    assert hf.has_tokenizer(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


# --- the report ---


def test_missing_tensors_are_named(mesh, folder):
    edit(folder, lambda t: [t.pop(k) for k in ("lm_head.weight", "model.layers.1.mlp.up_proj.weight")])
    with pytest.raises(ValueError, match=r"does not fit its config\.json") as error:
        hf.load(folder, mesh)
    assert "missing: lm_head.weight" in str(error.value)
    assert "missing: model.layers.1.mlp.up_proj.weight" in str(error.value)


def test_extra_tensors_are_named(mesh, folder):
    edit(folder, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(32, np.float32)}))
    with pytest.raises(ValueError, match=r"unknown: model\.layers\.0\.self_attn\.q_proj\.bias"):
        hf.load(folder, mesh)


def test_wrong_shapes_are_named(mesh, folder):
    edit(folder, lambda t: t.update({"model.layers.1.mlp.up_proj.weight": np.zeros((63, 32), np.float32)}))
    message = r"model\.layers\.1\.mlp\.up_proj\.weight has shape \[63, 32\], config\.json asks for \[64, 32\]"
    with pytest.raises(ValueError, match=message):
        hf.load(folder, mesh)


def test_everything_wrong_is_in_one_message(mesh, folder):
    def change(tensors):
        tensors["model.norm.weight"] = np.zeros(5, np.float32)
        tensors["left.over"] = tensors.pop("model.embed_tokens.weight")

    edit(folder, change)
    with pytest.raises(ValueError, match="does not fit") as error:
        hf.load(folder, mesh)
    for part in ("missing: model.embed_tokens.weight", "unknown: left.over", "model.norm.weight has shape [5]"):
        assert part in str(error.value)


def test_a_layer_more_in_the_files_than_in_the_config(mesh, folder):
    edit_config(folder, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"unknown: model\.layers\.1\.input_layernorm\.weight"):
        hf.load(folder, mesh)


def test_a_long_report_is_cut(mesh, folder):
    edit_config(folder, num_hidden_layers=9)
    with pytest.raises(ValueError, match=r"and \d+ more"):
        hf.load(folder, mesh)


def test_buffers_of_old_versions_are_ignored(mesh, folder):
    before = hf.load(folder, mesh)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(folder, lambda t: t.update({name: np.zeros(4, np.float32)}))
    assert_same(hf.load(folder, mesh), before)


def test_tied_embeddings_written_twice_are_no_problem(mesh, folder):
    def tie(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()

    edit(folder, tie)
    edit_config(folder, tie_word_embeddings=True)
    model = hf.load(folder, mesh)
    assert model.bind().head is None


# --- files that are not there, or not whole ---


def test_a_missing_folder_is_named(mesh, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint folder .*nowhere"):
        hf.load(tmp_path / "nowhere", mesh)
    with pytest.raises(FileNotFoundError, match=r"No checkpoint folder runs/sft"):
        hf.check("runs/sft")
    with pytest.raises(FileNotFoundError, match=r"No checkpoint given"):
        hf.check("")


def test_missing_files_are_named(mesh, folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights"):
        hf.load(folder, mesh)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"pickle"):
        hf.load(folder, mesh)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        hf.load(folder, mesh)


def test_a_missing_shard_is_named(mesh, tmp_path):
    hf.save(tmp_path / "model", random_model(mesh), max_shard_bytes=12_000)
    shard = sorted((tmp_path / "model").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        hf.load(tmp_path / "model", mesh)


def test_a_file_cut_short_is_named(mesh, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        hf.load(folder, mesh)


# --- vocabulary ---


@pytest.mark.parametrize("preset", PRESETS)
def test_new_rows_are_the_mean_of_the_old(mesh, tmp_path, preset):
    model = random_model(mesh, preset)
    hf.save(tmp_path / "model", model)
    grown = hf.load(tmp_path / "model", mesh, vocab_size=259)
    assert grown.config.vocab_size == 259
    for old, new in (
        (model.bind().embedding[...], grown.bind().embedding[...]),
        (model.bind().head.kernel[...].T, grown.bind().head.kernel[...].T),
    ):
        np.testing.assert_array_equal(new[:256], old)
        np.testing.assert_allclose(new[256:], np.tile(np.mean(old, axis=0), (3, 1)), rtol=1e-5, atol=1e-6)


def test_shards_of_new_rows_alone(mesh, tmp_path):
    """Twice the vocabulary over two devices: the second holds new rows only."""
    hf.save(tmp_path / "model", random_model(mesh))
    two = parallel.make_mesh(fsdp=4, tensor=2)
    one, other = (hf.load(tmp_path / "model", m, vocab_size=512).bind() for m in (mesh, two))
    np.testing.assert_allclose(one.embedding[...], other.embedding[...], atol=1e-7)
    assert np.ptp(np.asarray(other.embedding[...])[256:], axis=0).max() == 0


def test_shrinking_keeps_the_first_rows(mesh, tmp_path):
    model = random_model(mesh)
    hf.save(tmp_path / "model", model)
    small = hf.load(tmp_path / "model", mesh, vocab_size=250)
    np.testing.assert_array_equal(small.bind().embedding[...], model.bind().embedding[...][:250])
    np.testing.assert_array_equal(small.bind().head.kernel[...], model.bind().head.kernel[...][:, :250])


def test_recorded_resizing(golden, mesh):
    models = golden / "models"
    recorded = load(models / "models.json")["stable_resize"]
    base = load_file(models / "llama_mha" / "model.safetensors")
    grown = hf.load(models / "llama_mha", mesh, vocab_size=recorded["grow_to"]).bind()
    for name, actual, key in (
        ("input_new_rows", grown.embedding[...], "model.embed_tokens.weight"),
        ("output_new_rows", grown.head.kernel[...].T, "lm_head.weight"),
    ):
        np.testing.assert_array_equal(actual[:128], base[key])
        np.testing.assert_allclose(actual[128:], recorded[name], rtol=1e-5, atol=1e-7)
    shrunk = hf.load(models / "neox_r025_par", mesh, vocab_size=120).bind()
    assert list(shrunk.embedding[...].shape) == recorded["neox_shrink_to_120"]["in_shape"][:1] + [64]
    rows = load_file(models / "neox_r025_par" / "model.safetensors")["embed_out.weight"][:120]
    np.testing.assert_array_equal(shrunk.head.kernel[...].T, rows)


# --- scalar models ---


def test_keys_of_a_reward_model(mesh, tmp_path):
    hf.save(tmp_path / "model", random_model(mesh, kind="scalar"))
    keys = set(load_file(tmp_path / "model" / "model.safetensors"))
    assert {k for k in keys if not k.startswith("backbone_model.")} == {"reward_head.weight", "reward_head.bias"}
    assert {"backbone_model.lm_head.weight", "backbone_model.model.layers.1.mlp.up_proj.weight"} <= keys
    raw = json.loads((tmp_path / "model" / "config.json").read_text())
    assert raw["model_type"] == "reward_model"
    assert raw["backbone_config"]["model_type"] == "llama"
    assert hf.config_of(tmp_path / "model")[1] == "scalar"


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
    kept = hf.load(tmp_path / "model", mesh, kind="scalar")
    np.testing.assert_array_equal(kept.bind().reward_head.weight[...], saved.bind().reward_head.weight[...])


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
    config, kind = hf.config_of(tmp_path / "reward")
    assert (config, kind) == (hf.config_of(folder)[0], "scalar")
    folder.rename(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"names its backbone '/somewhere/else/model'"):
        hf.config_of(tmp_path / "reward")


def test_only_the_unused_head_of_a_scalar_model_is_not_trained(mesh):
    model = random_model(mesh, kind="scalar")
    frozen = [path for path, flag in registry.flat(trainable(model.params)) if not flag]
    assert frozen == [("backbone_model", "head", "kernel")]
    assert all(jax.tree.leaves(trainable(random_model(mesh).params)))


# --- what is not implemented ---


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("tiny-llama", dict(hidden_act="gelu"), "hidden_act='gelu'"),
        ("tiny-llama", dict(sliding_window=128), "sliding_window"),
        ("tiny-llama", dict(pretraining_tp=2), "pretraining_tp"),
        ("tiny-llama", dict(rope_scaling=dict(type="linear", factor=2.0)), "rope scaling of type 'linear'"),
        ("tiny-llama", dict(rope_parameters=dict(rope_type="yarn", factor=2.0)), "rope scaling of type 'yarn'"),
        ("tiny-llama", dict(model_type="mistral"), "model_type='mistral'"),
        ("tiny-gpt-neox", dict(hidden_act="swish"), "hidden_act='swish'"),
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
    old = hf.config_of(folder)[0]
    edit_config(
        folder, rope_theta=None, rope_scaling=None, rope_parameters=scaling | dict(rope_type="llama3", rope_theta=5e5)
    )
    assert hf.config_of(folder)[0] == old
    assert old.rope_theta == 5e5
    assert old.rope_scaling.factor == 8.0


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"No preset 'llama-9'.*tiny-llama"):
        registry.from_preset("llama-9")


# --- a save that fails ---


def test_nothing_is_left_when_a_save_fails_half_way(mesh, tmp_path, monkeypatch):
    written = []

    def fail_on_the_third(tensors, path, metadata):
        if len(written) == 2:
            raise OSError("disk full")
        written.append(path)
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(hf, "save_file", fail_on_the_third)
    with pytest.raises(OSError, match="disk full"):
        hf.save(tmp_path / "model", random_model(mesh), max_shard_bytes=12_000)
    assert len(written) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_older_folder(mesh, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(hf, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        hf.save(folder, random_model(mesh, "tiny-gpt-neox"))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]
