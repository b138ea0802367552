"""Folders of adapters: PEFT reads ours, we read PEFT's, merged or not; adapters of one base share its arrays."""

import json
import re
import shutil

import numpy as np
import pytest

from lc_jax.models import folders, hf, registry
from lc_jax.models.adapters import REFUSED, config_to_peft, open_folder
from lc_jax.models.config import Lora
from lc_jax.models.linear import ADAPTERS
from lc_jax.models.params import model_leaves, param_specs
from tests.models.conftest import assert_same, edit, edit_config, random_model
from tests.models.test_adapters import LORA, TOKENS, assert_close, base, llama, logits, with_random_adapter

__all__ = ["base", "llama"]  # fixtures

# PEFT asks transformers in ways that are deprecated there.
of_peft = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@of_peft
@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_peft_reads_our_adapter(base, kind, mesh, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    import transformers

    model = with_random_adapter(hf.load(base, mesh, kind=kind, lora=LORA))
    hf.save(tmp_path / "adapter", model)
    if kind == "causal":
        theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    else:
        auto = transformers.AutoModelForSequenceClassification
        theirs = auto.from_pretrained(base, dtype=torch.float32, num_labels=1, pad_token_id=0)
        with pytest.warns(UserWarning, match="reward_head_bias"):  # PEFT has no bias of the head
            theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    ours = logits(model)
    if kind == "scalar":
        ours, expected = ours[:, -1] - float(model.params["reward_head"]["bias"][0]), expected[:, 0]
    assert_close(ours, expected)


@of_peft
@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_an_adapter_of_peft_and_merge_it_as_peft_does(base, rslora, mesh, tmp_path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False,
        use_rslora=rslora,
    )  # fmt: skip
    theirs = peft.get_peft_model(theirs, config)
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(torch.tensor(TOKENS)).logits.numpy()
    lora = Lora(4, 16.0 if rslora else 8.0)
    assert_close(logits(hf.load(tmp_path / "adapter", mesh, lora=lora)), expected)
    merged = hf.load(tmp_path / "adapter", mesh)
    assert_close(logits(merged), expected)
    hf.save(tmp_path / "merged", merged)
    by_peft = dict(theirs.merge_and_unload().named_parameters())
    values = {key: value for key, value in hf.host_tensors(merged) if "layers" in key}
    assert len(values) == 2 * (12 if "gpt_neox" in next(iter(values)) else 9)
    for key, value in values.items():
        np.testing.assert_allclose(value, by_peft[key].detach().numpy(), atol=1e-6, err_msg=key)


def test_the_folder_has_the_names_of_peft(llama, mesh, tmp_path):
    model = hf.load(llama, mesh, lora=Lora(2, 4.0, ("q", "down")))
    hf.save(tmp_path / "adapter", model)
    names = hf.Tensors(tmp_path / "adapter", ("adapter_model.safetensors",)).names()
    assert sorted(names) == sorted(
        f"base_model.model.model.layers.{layer}.{module}.lora_{part}.weight"
        for layer in range(2)
        for module in ("self_attn.q_proj", "mlp.down_proj")
        for part in "AB"
    )
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    expected = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none"}
    assert expected.items() <= config.items()
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert config["base_model_name_or_path"] == str(llama)
    assert "vocab_size" not in config


@pytest.mark.parametrize("family", sorted(set(registry.FAMILIES) - {"phi3"}))
def test_every_family_names_its_adapters_after_their_matrices(family):
    preset = next(name for name in registry.FAMILIES[family].PRESETS if name.startswith("tiny"))
    config = registry.from_preset(preset, lora=Lora(2, 4.0))
    specs = {spec.path: spec for spec in param_specs(registry.abstract_model(config))}
    for name in config.linear_layers:
        (matrix,) = {key.removesuffix(".weight") for key in specs["layers", name, "kernel"].hf_keys[:1]}
        for part, letter in (("lora_a", "A"), ("lora_b", "B")):
            assert specs["layers", name, part].hf_keys[0] == f"base_model.model.{matrix}.lora_{letter}.weight"
        out = specs["layers", name, "kernel"].hf_shape[0]
        assert specs["layers", name, "lora_b"].hf_shape == (out, 2)
    assert sum(spec.is_adapter for spec in specs.values()) == 2 * len(config.linear_layers)


def test_phi_3_has_no_adapters(mesh, tmp_path):
    hf.save(tmp_path / "phi3", random_model(mesh, "tiny-phi3"))
    with pytest.raises(ValueError, match=r"adapters of phi3 are not implemented.*lora\.rank=0"):
        hf.load(tmp_path / "phi3", mesh, lora=LORA)


def test_a_reward_model_and_a_padding_row_survive_the_folder(llama, mesh, tmp_path):
    model = with_random_adapter(hf.load(llama, mesh, kind="scalar", vocab_size=257, lora=LORA))
    hf.save(tmp_path / "adapter", model)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["vocab_size"] == 257
    again = hf.load(tmp_path / "adapter", mesh, kind="scalar", lora=LORA)
    assert_same(again, model)
    assert_close(logits(hf.load(tmp_path / "adapter", mesh, kind="scalar")), logits(model))
    critic = hf.load(tmp_path / "adapter", mesh, kind="scalar", fresh_head=True, lora=LORA)
    assert not logits(critic).any()
    with pytest.raises(ValueError, match="is a reward model"):
        hf.load(tmp_path / "adapter", mesh)


def test_a_causal_adapter_is_the_start_of_a_reward_model_a_critic_and_a_reader(llama, mesh, tmp_path):
    policy = with_random_adapter(hf.load(llama, mesh, lora=LORA))
    hf.save(tmp_path / "adapter", policy)
    ours = dict(model_leaves(policy))
    starts = {
        "reward model": dict(lora=LORA),
        "critic": dict(lora=LORA, fresh_head=True, backbone=policy),
        "reader": dict(backbone=policy),
    }
    for role, settings in starts.items():
        model = hf.load(tmp_path / "adapter", mesh, kind="scalar", **settings)
        for path, leaf in model_leaves(model):
            if path[0] == "reward_head":
                assert not np.asarray(leaf).any(), role
            else:
                np.testing.assert_array_equal(leaf, ours[path[1:]], err_msg=role)
                assert "backbone" not in settings or path[-1] in ADAPTERS or leaf is ours[path[1:]], role
        assert {path[-1] for path, _ in registry.named_leaves(model.params)} == {*ADAPTERS, "weight", "bias"}
    with_head = with_random_adapter(model, 1)
    hf.save(tmp_path / "critic", with_head)
    assert_same(hf.load(tmp_path / "critic", mesh, kind="scalar", backbone=policy), with_head)


def test_adapters_of_one_base_share_its_arrays(llama, mesh, tmp_path):
    policy = hf.load(llama, mesh, lora=LORA)
    other = with_random_adapter(hf.load(llama, mesh, kind="scalar", vocab_size=257, lora=Lora(2, 2.0, ("o",))))
    hf.save(tmp_path / "forecaster", other)
    hf.save(tmp_path / "elsewhere" / "base", random_model(mesh))
    hf.save(tmp_path / "elsewhere" / "adapter", hf.load(tmp_path / "elsewhere" / "base", mesh, lora=LORA))
    forecaster = hf.load(tmp_path / "forecaster", mesh, kind="scalar", backbone=policy)
    assert_same(forecaster, other)
    ours, shared = dict(model_leaves(policy)), []
    for path, leaf in registry.named_leaves(forecaster.frozen):
        if leaf is ours[path[1:]]:
            shared.append(path)
        else:  # they have a row for padding
            assert path[-1] == "embedding" or "head" in path
    assert len(shared) == 10
    assert hf.load(tmp_path / "elsewhere" / "adapter", mesh, backbone=policy).frozen is None  # merged, on its own
    plain = hf.load(llama, mesh, backbone=policy)
    assert plain.frozen is None


def test_adapters_that_do_not_fit_are_refused(llama, mesh, tmp_path):
    adapter = tmp_path / "adapter"
    hf.save(adapter, hf.load(llama, mesh, lora=LORA))
    folders.check(adapter)
    with pytest.raises(ValueError, match=r"rank 3, alpha 6 for .*--config.lora has 4, 6.*lc_jax convert"):
        hf.load(adapter, mesh, lora=Lora(4, 6.0))
    with pytest.raises(ValueError, match=r"lora.targets=qkv: the linear layers of llama are q,k,v,o,gate,up,down"):
        hf.load(llama, mesh, lora=Lora(4, 6.0, ("qkv",)))
    config = adapter / "adapter_config.json"
    original = json.loads(config.read_text())
    changes = [
        *((key, {"q_proj": 8}) for key in REFUSED), ("use_dora", True), ("layers_to_transform", 0), ("bias", "all"),
        ("peft_type", "IA3"), ("task_type", "SEQ_2_SEQ_LM"), ("r", 0), ("r", 4), ("base_model_name_or_path", None),
        *(("init_lora_weights", value) for value in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")),
        ("modules_to_save", ["lm_head"]), ("modules_to_save", ["score"]),
    ]  # fmt: skip
    for key, value in changes:
        config.write_text(json.dumps(original | {key: value}))
        with pytest.raises(ValueError, match=rf"adapter_config.json: {key}"):
            folders.check(adapter)
    inert = {"init_lora_weights": "gaussian", "layers_to_transform": None, "rank_pattern": {}, "use_dora": False}
    config.write_text(json.dumps(original | inert | {"lora_dropout": 0.1}))
    folders.check(adapter)
    with pytest.raises(ValueError, match=r"adapter_config.json: lora_dropout=0\.1.*write 0 there"):
        hf.load(adapter, mesh, lora=LORA)
    hf.save(tmp_path / "neox", random_model(mesh, "tiny-gpt-neox"))
    config.write_text(json.dumps(original | {"base_model_name_or_path": str(tmp_path / "neox")}))
    with pytest.raises(ValueError, match=r"target_modules: it adapts gate,k,q,v, which gpt_neox lacks.*neox is not"):
        hf.load(adapter, mesh)
    config.write_text(json.dumps(original | {"base_model_name_or_path": "/nowhere/else"}))
    with pytest.raises(FileNotFoundError, match="is an adapter of /nowhere/else, which is needed too"):
        folders.check(adapter)
    config.write_text(json.dumps(original | {"base_model_name_or_path": "/nowhere/base"}))
    folders.check(adapter)  # a folder of that name is next to it
    config.write_text(json.dumps(original))
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither adapter_model\.safetensors"):
        folders.check(adapter)
    edit_config(llama, hidden_size=64)
    assert folders.config_of(llama)[0].hidden_size == 64


def test_tensors_that_are_no_adapters_of_linear_layers_are_refused(llama, mesh, tmp_path):
    hf.save(tmp_path / "adapter", hf.load(llama, mesh, lora=LORA))
    weights, key = "adapter_model.safetensors", "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    faults = {
        "base_model.model.lm_head.weight": "holds .*lm_head.weight, which is no adapter.*merge_and_unload",
        "base_model.model.model.embed_tokens.lora_embedding_A": "holds .*embed_tokens.lora_embedding_A, which is no",
        "base_model.model.lm_head.lora_A.weight": "target_modules: adapters of lm_head .*are not implemented. Merge",
        key: r"target_modules, exclude_modules: q_proj has no adapter in layer 1 A;",
    }
    for number, (name, message) in enumerate(faults.items()):
        folder = shutil.copytree(tmp_path / "adapter", tmp_path / str(number))
        edit(folder, lambda t, name=name: t.pop(name, None) is None and t.update({name: np.zeros((3, 3))}), weights)
        with pytest.raises(ValueError, match=rf"{folder}/adapter_config.json: .*{message}"):
            folders.check(folder)


def test_the_base_is_one_however_its_path_is_written_and_hub_names_keep_their_revision(llama, mesh, tmp_path):
    (tmp_path / "link").symlink_to(llama)
    policy = hf.load(tmp_path / "link", mesh, lora=LORA)
    assert policy.config.lora.base == str(llama)
    hf.save(tmp_path / "adapter", policy)
    edit_config(
        tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=f"{tmp_path}/../{tmp_path.name}/link"
    )
    assert hf.load(tmp_path / "adapter", mesh, backbone=policy).frozen is not None
    # A name of the hub is that of the hub, whatever is next to the adapter.
    name, revision = "someone/base", "deadbeef"
    edit_config(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=name, revision=revision)
    assert folders.base_of(open_folder(tmp_path / "adapter")) == "someone/base@deadbeef"
    contents = config_to_peft(
        Lora(3, 6.0, ("q",), base=f"{name}@{revision}"), registry.FAMILIES["llama"].KEYS, "causal"
    )
    assert (contents["base_model_name_or_path"], contents["revision"]) == (name, revision)
    # What a run exports does not depend on the base's folder, which may have moved by then.
    llama.rename(tmp_path / "moved")
    hf.save(tmp_path / "again", policy)
    assert "vocab_size" not in json.loads((tmp_path / "again" / "adapter_config.json").read_text())


def test_an_rslora_adapter_is_trained_on_with_the_alpha_of_the_message(llama, mesh, tmp_path):
    hf.save(tmp_path / "adapter", hf.load(llama, mesh, lora=Lora(8, 16.0, ("q",))))
    edit_config(tmp_path / "adapter", "adapter_config.json", use_rslora=True)
    with pytest.raises(ValueError, match=r"alpha 45\.254834 for q,") as refusal:
        hf.load(tmp_path / "adapter", mesh, lora=Lora(8, 16.0, ("q",)))
    alpha = float(re.search(r"alpha (\S+) for", str(refusal.value)).group(1))
    settings = {"rank": 8, "alpha": alpha, "targets": "q,q", "dropout": 0.0, "int8": False}
    again = hf.load(tmp_path / "adapter", mesh, lora=Lora.of(settings))
    assert again.config.lora.scale == pytest.approx(16 / 8**0.5, rel=1e-12)  # the folder's, not that of the message


@pytest.mark.parametrize(("name", "value"), [("rank", -1), ("alpha", 0), ("dropout", 0.1)])
def test_settings_out_of_range_are_refused(name, value):
    settings = {"rank": 8, "alpha": 16.0, "targets": "q, v", "dropout": 0.0, "int8": False}
    assert Lora.of(settings) == Lora(8, 16.0, ("q", "v"))
    assert Lora.of(settings | {"rank": 0}) is None
    with pytest.raises(ValueError, match=f"--config.lora.{name}={value}"):
        Lora.of(settings | {name: value})
    with pytest.raises(ValueError, match=r"give --config\.lora\.rank too"):
        Lora.of(settings | {"rank": 0, "int8": True})
