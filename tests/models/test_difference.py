"""Weight differences: the recorded recovery, both directions, what is refused, and pickled checkpoints."""

import importlib
import json
import shutil
import sys

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from lc_jax import parallel
from lc_jax.models import difference, folders, hf, registry
from lc_jax.models.tensors import Tensors
from tests.models.conftest import PRESETS, assert_same, edit, random_model
from tests.recorded import load
from tests.test_configs import config_of

RELEASES = {
    "policy": ("lc-sft-wdiff", "lc-sft-recovered"),
    "reward_model": ("reward-model-forecastprobs-wdiff", "reward-model-forecastprobs-recovered"),
}


def tensors(folder):
    read = Tensors(folder)
    return {key: read.slice(key)[...] for key in read.names()}


def upload(recordings, tmp_path, name):
    """A copy of a recorded difference as it is released, with its sum."""
    recorded = load(recordings / "weight_diff" / "weight_diff.json")[name]
    folder = tmp_path / RELEASES[name][0]
    shutil.copytree(recordings / "weight_diff" / RELEASES[name][0], folder)
    folder.chmod(0o755)
    (folder / "model_sum.txt").write_text(str(recorded["model_sum_float32"]))
    return folder, recorded


# --- recovery as published ---


@pytest.mark.parametrize("name", RELEASES)
def test_recorded_recovery(recordings, tmp_path, name):
    folder, _ = upload(recordings, tmp_path, name)
    difference.recover(recordings / "weight_diff" / "base", folder, tmp_path / "out")
    expected = load_file(recordings / "weight_diff" / RELEASES[name][1] / "model.safetensors")
    recovered = tensors(tmp_path / "out")
    assert set(recovered) == set(Tensors(folder).names())
    assert recovered.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(recovered[key], value, err_msg=key)


def test_a_recovered_policy_and_its_tokenizer_load(recordings, mesh, tmp_path):
    folder, _ = upload(recordings, tmp_path, "policy")
    difference.recover(recordings / "weight_diff" / "base", folder, tmp_path / "out")
    model = hf.load(tmp_path / "out", mesh)
    assert model.config.vocab_size == 129
    assert folders.has_tokenizer(tmp_path / "out")


def test_a_recovered_reward_model_gives_the_recorded_rewards(recordings, mesh, tmp_path):
    """Alone: neither its backbone's folder nor the policy that it was trained from is recovered before it."""
    folder, recorded = upload(recordings, tmp_path, "reward_model")
    difference.recover(recordings / "weight_diff" / "base", folder, tmp_path / "out")
    model = hf.load(tmp_path / "out", mesh, kind="scalar")
    lengths = recorded["attention_mask"].sum(axis=1)
    tokens = recorded["input_ids"].astype(np.int32)
    values = model.bind()(tokens, lengths, starts=tokens.shape[1] - lengths)
    np.testing.assert_allclose(values[:, -1], recorded["rewards"], atol=2e-5)


def test_recorded_integrity_check(recordings, tmp_path):
    folder, recorded = upload(recordings, tmp_path, "policy")
    for number, case in enumerate(recorded["integrity_check"]):
        (folder / "model_sum.txt").write_text(repr(case["file_value"]))
        out = tmp_path / str(number)
        if case["passes"]:
            difference.recover(recordings / "weight_diff" / "base", folder, out)
        else:
            with pytest.raises(ValueError, match="add up to"):
                difference.recover(recordings / "weight_diff" / "base", folder, out)
        assert out.exists() == case["passes"]


def test_added_where_shapes_agree_and_kept_where_not(tmp_path):
    base, upload = tmp_path / "base", tmp_path / "upload"
    for folder, arrays in (
        (base, {"a": np.float32([1, 2]), "b": np.float32([1, 1]), "h": np.float16([1])}),
        (upload, {"a": np.float32([3, 4]), "b": np.float32([5, 6, 7]), "h": np.float16([2048]), "z": np.float32([9])}),
    ):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        save_file(arrays, folder / "model.safetensors")
    difference.recover(base, upload, tmp_path / "out")
    out = {key: value.tolist() for key, value in tensors(tmp_path / "out").items()}
    # 2048 + 1 is 2048 in half precision, where the published code adds such tensors.
    assert out == {"a": [4, 6], "b": [5, 6, 7], "h": [2049], "z": [9]}


@pytest.mark.parametrize(("total", "passes"), [(100000.9, True), (99999.1, True), (100001.1, False), (99998.9, False)])
def test_the_sum_of_all_parameters_may_differ_by_a_hundred_thousandth(tmp_path, total, passes):
    for name, value in (("base", 40000), ("upload", 60000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        save_file({"a": np.float32([value])}, tmp_path / name / "model.safetensors")
    (tmp_path / "upload" / "model_sum.txt").write_text(str(total))
    if passes:
        difference.recover(tmp_path / "base", tmp_path / "upload", tmp_path / "out")
        return
    with pytest.raises(ValueError, match="add up to"):
        difference.recover(tmp_path / "base", tmp_path / "upload", tmp_path / "out")


# --- there and back ---


@pytest.fixture
def pair(mesh, tmp_path):
    """A base, and a tuned model of a grown vocabulary."""
    base, tuned = random_model(mesh), random_model(mesh, param_dtype="bfloat16")
    hf.save(tmp_path / "base", base)
    changed = tuned.with_params(jax.tree.map(lambda x: (1.03 * x).astype(x.dtype), tuned.params))
    hf.save(tmp_path / "small", changed)
    hf.save(tmp_path / "tuned", hf.load(tmp_path / "small", mesh, vocab_size=257, param_dtype="bfloat16"))
    return tmp_path / "base", tmp_path / "tuned"


def test_a_difference_that_is_made_is_recovered_exactly(mesh, pair, tmp_path):
    base, tuned = pair
    difference.make(base, tuned, tmp_path / "made", max_shard_bytes=20_000)
    assert len(list((tmp_path / "made").glob("*.safetensors"))) > 2
    difference.recover(base, tmp_path / "made", tmp_path / "out")
    expected, recovered = tensors(tuned), tensors(tmp_path / "out")
    assert expected.keys() == recovered.keys()
    for key in expected:
        assert recovered[key].dtype == expected[key].dtype
        np.testing.assert_array_equal(recovered[key], expected[key], err_msg=key)
    assert hf.load(tmp_path / "out", mesh).config.vocab_size == 257
    total = sum(float(np.sum(v.astype(np.float64))) for v in recovered.values())
    assert float((tmp_path / "made" / "model_sum.txt").read_text()) == pytest.approx(total, rel=1e-3)


def test_a_reward_model_of_ours(mesh, folder, tmp_path):
    model = random_model(mesh, kind="scalar")
    hf.save(tmp_path / "reward", model.with_params(jax.tree.map(lambda x: 1.25 * x, model.params)))
    difference.make(folder, tmp_path / "reward", tmp_path / "made")
    values = tensors(tmp_path / "made")
    assert max(float(np.abs(v).max()) for k, v in values.items() if k.startswith("backbone_model.")) > 0
    difference.recover(folder, tmp_path / "made", tmp_path / "out")
    again, model = (hf.load(tmp_path / name, mesh, kind="scalar") for name in ("out", "reward"))
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


# --- never loaded as a model ---


def fine_tuned(mesh, tmp_path, preset):
    """A base whose last norm is about 1, as trained models have it, and a difference of 1 % of its weights."""

    def grow(model, factor):
        return model.with_params(jax.tree.map(lambda x: factor * x, model.params))

    plain = registry.initialize(registry.from_preset(preset), jax.random.key(0), mesh)
    hf.save(tmp_path / "base", plain)
    hf.save(tmp_path / "by_hand", grow(plain, 0.01))
    hf.save(tmp_path / "tuned", grow(plain, 1.01))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_local_difference_is_refused_as_a_model_and_recovered_by_the_command_it_is_told(mesh, tmp_path, preset):
    fine_tuned(mesh, tmp_path, preset)
    for folder in ("base", "tuned"):
        folders.check(tmp_path / folder)
    source = tmp_path / "by_hand"  # neither name nor files say what it is
    with pytest.raises(ValueError, match=rf"base=meta-llama/Llama-2-7b-hf --config\.source={source} --config\.dest"):
        hf.load(source, mesh)
    convert(base=tmp_path / "base", source=source, destination=tmp_path / "out")
    for key, value in tensors(tmp_path / "tuned").items():
        np.testing.assert_allclose(tensors(tmp_path / "out")[key], value, atol=1e-6)


def test_a_difference_is_known_by_its_name_and_its_files_too(mesh, pair, tmp_path):
    base, tuned = pair
    difference.make(base, tuned, tmp_path / "made")
    shutil.copytree(tuned, tmp_path / "lc-rl-wdiff")
    for folder in (tmp_path / "made", tmp_path / "lc-rl-wdiff"):
        with pytest.raises(ValueError, match="holds a weight difference"):
            folders.check(folder)
        with pytest.raises(ValueError, match="holds a weight difference"):
            convert(source=folder, destination=tmp_path / "out")
        with pytest.raises(ValueError, match="holds a weight difference"):
            convert(base=folder, source=tuned, destination=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_reward_models_difference_is_recovered_whatever_its_config_says(mesh, folder, tmp_path):
    """Its keys tell: those of the backbone carry a prefix, and the head is whole."""
    head = {"reward_head.weight": np.full((1, 32), 2, np.float32), "reward_head.bias": np.float32([3])}
    shutil.copytree(folder, tmp_path / "upload")
    edit(tmp_path / "upload", lambda t: [t.update({f"backbone_model.{k}": t.pop(k) * 0}) for k in list(t)])
    edit(tmp_path / "upload", lambda t: t.update(head))
    difference.recover(folder, tmp_path / "upload", tmp_path / "out")
    recovered, base = tensors(tmp_path / "out"), tensors(folder)
    assert all(np.array_equal(recovered[f"backbone_model.{key}"], value) for key, value in base.items())
    model = hf.load(tmp_path / "out", mesh, kind="scalar")
    assert np.array_equal(model.params["reward_head"]["weight"][...], head["reward_head.weight"])
    assert folders.config_of(tmp_path / "out")[1] == "scalar"


# --- what is refused, with nothing written ---


def test_a_wrong_base_is_refused(mesh, pair, tmp_path):
    base, tuned = pair
    difference.make(base, tuned, tmp_path / "made")
    before = sorted(tmp_path.iterdir())

    def nudge(tensors):  # one value by one step: the sum cannot see it
        weights = tensors["model.layers.1.mlp.up_proj.weight"]
        weights[3, 4] += 0.05

    edit(base, nudge)
    with pytest.raises(ValueError, match=r"up_proj\.weight does not have the recorded checksum.*nothing was written"):
        difference.recover(base, tmp_path / "made", tmp_path / "out")
    (tmp_path / "made" / "recovered_checksums.json").unlink()
    edit(base, lambda t: t["model.layers.1.mlp.up_proj.weight"].__iadd__(1))
    with pytest.raises(ValueError, match=r"add up to .*model_sum\.txt"):
        difference.recover(base, tmp_path / "made", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_bases_of_another_shape_are_refused(mesh, pair, tmp_path):
    base, tuned = pair
    edit(base, lambda t: t.update({"model.layers.2.mlp.up_proj.weight": np.zeros((64, 32), np.float32)}))
    with pytest.raises(ValueError, match=r"lacks 1 tensors .*layers\.2\.mlp\.up_proj\.weight"):
        difference.recover(base, tuned, tmp_path / "out")
    edit(base, lambda t: [t.update({k: np.zeros((3, 3, 3), np.float32)}) for k in list(t)])
    edit(base, lambda t: t.pop("model.layers.2.mlp.up_proj.weight"))
    with pytest.raises(ValueError, match=r"No tensor of .* has the shape"):
        difference.recover(base, tuned, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_sums_are_refused_and_missing_ones_reported(pair, tmp_path, caplog):
    base, tuned = pair
    difference.make(base, tuned, tmp_path / "made")
    (tmp_path / "made" / "model_sum.txt").write_text("<html>")
    with pytest.raises(ValueError, match=r"model_sum\.txt does not hold a number"):
        difference.recover(base, tmp_path / "made", tmp_path / "out")
    for name in ("model_sum.txt", "recovered_checksums.json"):
        (tmp_path / "made" / name).unlink()
    difference.recover(base, tmp_path / "made", tmp_path / "out")
    assert "the base is not verified" in caplog.text


# --- the task ---


def convert(**settings):
    config = config_of("convert")
    config.update({key: str(value) if key != "make_difference" else value for key, value in settings.items()})
    importlib.import_module("lc_jax.tasks.convert").run(config, parallel.make_mesh())


def test_the_task_goes_both_ways(pair, tmp_path):
    base, tuned = pair
    convert(base=base, source=tuned, destination=tmp_path / "made", make_difference=True)
    convert(base=base, source=tmp_path / "made", destination=tmp_path / "out")
    np.testing.assert_array_equal(tensors(tmp_path / "out")["lm_head.weight"], tensors(tuned)["lm_head.weight"])
    with pytest.raises(ValueError, match="exists already"):
        convert(base=base, source=tmp_path / "made", destination=tmp_path / "out")
    with pytest.raises(ValueError, match=r"needs --config\.base"):
        convert(source=tuned, destination=tmp_path / "x", make_difference=True)
    with pytest.raises(ValueError, match="second step"):
        convert(base=base, source=tuned, destination=tmp_path / "x", format="sequence_classification")


# --- pickled checkpoints ---


def pickle(folder, shards=1):
    """The folder's tensors as pytorch_model.bin, in so many files."""
    items = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    parts = [dict(items[i::shards]) for i in range(shards)]
    names = [
        f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" if shards > 1 else "pytorch_model.bin" for i in range(shards)
    ]
    for name, part in zip(names, parts, strict=True):
        bits = {k: v.view(np.int16) if v.dtype == "bfloat16" else v for k, v in part.items()}
        as_torch = {
            k: torch.from_numpy(bits[k]).view(torch.bfloat16) if v.dtype == "bfloat16" else torch.from_numpy(v)
            for k, v in part.items()
        }
        torch.save(as_torch, folder / name)
    if shards > 1:
        index = {"weight_map": {key: name for name, part in zip(names, parts, strict=True) for key in part}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(("dtype", "shards"), [("float32", 1), ("bfloat16", 3)])
def test_a_pickled_checkpoint_loads_as_its_safetensors_do(mesh, tmp_path, dtype, shards):
    model = random_model(mesh, param_dtype=dtype)
    hf.save(tmp_path / "model", model)
    pickle(tmp_path / "model", shards)
    assert hf.stored_dtype(tmp_path / "model") == dtype
    assert_same(hf.load(tmp_path / "model", mesh, param_dtype=dtype), model)


def test_code_in_a_pickle_is_not_run(folder):
    class Touch:
        def __reduce__(self):
            return (print, ("run",))

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Touch()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin cannot be read as tensors"):
        hf.stored_dtype(folder)


@pytest.mark.parametrize("shards", [1, 2])
def test_without_torch_a_pickle_is_named_before_anything_is_loaded(mesh, folder, monkeypatch, shards):
    shutil.copytree(folder, folder.with_name("both"))
    pickle(folder, shards)
    (folder.with_name("both") / "pytorch_model.bin").write_bytes(b"the safetensors are read")
    folders.check(folder)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=rf"{folder} is a torch pickle: pip install torch, or convert it"):
        folders.check(folder)
    folders.check(folder.with_name("both"))
    for name in ("togethercomputer/RedPajama-INCITE-Base-3B-v1", "togethercomputer/RedPajama-INCITE-Base-3B-v1@main"):
        with pytest.raises(ValueError, match=r"RedPajama\S* is a torch pickle: pip install torch"):
            folders.check(name)
