"""Checkpoint folders: there and back, what the load report names, vocabulary sizes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lc_jax import parallel
from lc_jax.models import folders, hf
from tests.models.conftest import PRESETS, assert_same, edit, edit_config, random_model
from tests.recorded import load

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
    contents = {name: load_file(tmp_path / "model" / name) for name in files}
    assert index["weight_map"] == {key: name for name, tensors in contents.items() for key in tensors}
    sizes = {name: sum(t.nbytes for t in tensors.values()) for name, tensors in contents.items()}
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert all(sizes[n] <= limit or len(contents[n]) == 1 for n in files)
    assert_same(hf.load(tmp_path / "model", mesh), model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_are_those_of_the_safetensors_library(mesh, tmp_path, dtype):
    hf.save(tmp_path / "model", random_model(mesh, param_dtype=dtype))
    path = tmp_path / "model" / "model.safetensors"
    save_file(load_file(path), tmp_path / "again", metadata={"format": "pt"})
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


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
    assert folders.has_tokenizer(tmp_path / "model")
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
        tensors["model.norm.weight"] = np.ones(5, np.float32)
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
        folders.check("runs/sft")
    with pytest.raises(FileNotFoundError, match=r"No checkpoint given"):
        folders.check("")


def test_missing_files_are_named(mesh, folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights"):
        hf.load(folder, mesh)
    (folder / "pytorch_model.bin").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin cannot be read as tensors"):
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


def test_recorded_resizing(recordings, mesh):
    models = recordings / "models"
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
