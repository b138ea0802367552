"""Low-rank adapters: their arithmetic, folders of PEFT in and out, merged export, shared backbones."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.inference import generate, score
from lc_jax.models import folders, hf, registry
from lc_jax.models.config import Lora
from lc_jax.models.linear import quantise
from lc_jax.models.params import model_leaves, named_arrays, with_arrays
from lc_jax.training import language_model
from tests.models.conftest import PRESETS, assert_same, edit_config, random_model

LORA = Lora(3, 6.0)
TOKENS = np.asarray([[5, 6, 7, 8, 9, 10, 11], [20, 21, 22, 23, 24, 25, 26]])
BATCH = {
    "tokens": jnp.asarray(TOKENS),
    "lengths": jnp.asarray([7, 5]),
    "first_targets": jnp.asarray([2, 3]),
}


def with_random_adapter(model, seed=0):
    """The model with random numbers in A, B and a scalar head, so that all of them matter."""
    rng = np.random.default_rng(seed)
    arrays = {
        spec.path: jax.device_put(rng.normal(0, 0.1, array.shape).astype(array.dtype), array.sharding)
        if spec.is_adapter or spec.path[0] == "reward_head"
        else array
        for spec, array in named_arrays(model)
    }
    return with_arrays(model, arrays)


@jax.jit
def outputs(model, tokens):
    module, lengths = model.bind(), jnp.full(len(tokens), tokens.shape[1])
    hidden = module(tokens, lengths)
    return module.logits(hidden) if hasattr(module, "logits") else hidden


def logits(model):
    """Logits [B, T, V] of a language model, values [B, T] of a scalar one."""
    return np.asarray(outputs(model, jnp.asarray(TOKENS)))


def assert_close(values, expected):
    """To float32's digits; logits of these models are about 25."""
    np.testing.assert_allclose(values, expected, atol=3e-5 * np.abs(expected).max())


def as_numpy(model):
    return {path: np.asarray(array) for path, array in model_leaves(model)}


@pytest.fixture(params=PRESETS)
def base(request, mesh, tmp_path):
    """The folder of a random model."""
    hf.save(tmp_path / "base", random_model(mesh, request.param))
    return tmp_path / "base"


@pytest.fixture
def llama(mesh, tmp_path):
    hf.save(tmp_path / "base", random_model(mesh))
    return tmp_path / "base"


# --- arithmetic ---


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained(base, mesh):
    whole, model = hf.load(base, mesh), hf.load(base, mesh, lora=LORA)
    np.testing.assert_array_equal(logits(model), logits(whole))
    trained = registry.named_leaves(model.params)
    for path, leaf in trained:
        bound = leaf.shape[-2] ** -0.5
        if path[-1] == "lora_b":
            assert not np.asarray(leaf).any()
        else:  # uniform, as in PEFT
            assert path[-1] == "lora_a"
            assert bound * 0.9 < np.abs(leaf).max() <= bound
            assert np.asarray(leaf).std() == pytest.approx(bound / 3**0.5, rel=0.2)
    assert len(model_leaves(model)) == len(model_leaves(whole)) + len(trained)


def test_the_adapter_adds_its_product_times_alpha_over_rank(base, mesh, tmp_path):
    model = with_random_adapter(hf.load(base, mesh, lora=LORA))
    arrays, plain = as_numpy(model), hf.load(base, mesh)

    def merged(path):
        a, b = (arrays.get((*path[:-1], name)) for name in ("lora_a", "lora_b"))
        return arrays[path] if path[-1] != "kernel" or a is None else arrays[path] + 2.0 * a @ b

    expected = logits(with_arrays(plain, {path: merged(path) for path, _ in model_leaves(plain)}))
    assert np.abs(expected - logits(plain)).max() > 0.1
    assert_close(logits(model), expected)
    # The folder is a checkpoint: merged where no adapter is asked for, and to the bit the same where one is.
    hf.save(tmp_path / "adapter", model)
    assert_close(logits(hf.load(tmp_path / "adapter", mesh)), expected)
    assert_same(hf.load(tmp_path / "adapter", mesh, lora=LORA), model)


def test_at_full_width_on_a_base_of_zeros_an_adapter_is_full_fine_tuning(mesh):
    """With W = 0, A = 1 and alpha = rank, B takes the place of W: loss and gradient are those of W, and that of A is
    (gradient of W) B^T."""
    config = registry.from_preset("tiny-llama", lora=Lora(32, 32.0, ("q", "gate")))
    model = registry.initialize(config, jax.random.key(1), mesh)
    plain = registry.initialize(dataclasses.replace(config, lora=None), jax.random.key(1), mesh)
    full, arrays = as_numpy(plain), as_numpy(model)
    for name in ("q", "gate"):
        kernel = ("layers", name, "kernel")
        arrays[kernel] = np.zeros_like(arrays[kernel])
        arrays["layers", name, "lora_a"] = np.stack([np.eye(32, dtype=np.float32)] * 2)
        arrays["layers", name, "lora_b"] = full[kernel]
    model = with_arrays(model, {path: jnp.asarray(array) for path, array in arrays.items()})

    def loss(params, model):
        return language_model.loss_fn(model.with_params(params), BATCH)["loss"]

    value, grads = jax.value_and_grad(loss)(model.params, model)
    expected, full_grads = jax.value_and_grad(loss)(plain.params, plain)
    assert float(value) == pytest.approx(float(expected), abs=1e-5)
    for name in ("q", "gate"):
        by_matrix = np.asarray(full_grads["layers"][name]["kernel"][...])
        assert np.abs(by_matrix).max() > 1e-3
        np.testing.assert_allclose(grads["layers"][name]["lora_b"][...], by_matrix, atol=1e-6)
        by_a = by_matrix @ np.swapaxes(full["layers", name, "kernel"], 1, 2)
        np.testing.assert_allclose(grads["layers"][name]["lora_a"][...], by_a, atol=1e-6)


def test_samples_logprobs_gradients_and_rewards_follow_the_adapter(llama, mesh):
    """A compiled program takes the adapter as an argument: with another, the same program computes other numbers."""
    model = hf.load(llama, mesh, lora=LORA)
    scalar = hf.load(llama, mesh, kind="scalar", lora=LORA)
    prompts, sampling = [[5, 6, 7], [8, 9]], generate.Sampling(12)

    def numbers(seed):
        one, other = with_random_adapter(model, seed), with_random_adapter(scalar, seed)
        tokens, lengths = jnp.asarray(TOKENS), jnp.asarray([7, 5])
        return [
            [c.tokens for c in generate.generate(one, prompts, sampling, seed=0, batch_size=2)],
            np.asarray(score.sequence_logprobs(one, tokens, lengths, jnp.float32(1.0))[0]),
            np.asarray(score.sequence_rewards(other, tokens, lengths)),
            np.concatenate(score.group_rewards(other, [[[5, 6, 7, 8], [5, 6, 7, 9, 3]]], batch_size=1)),
        ]

    first, second, again = numbers(0), numbers(1), numbers(0)
    compiled = score.sequence_logprobs._cache_size(), generate._generate._cache_size()
    numbers(2)
    assert compiled == (score.sequence_logprobs._cache_size(), generate._generate._cache_size())
    for one, other, same in zip(first, second, again, strict=True):
        assert not np.array_equal(np.concatenate(one, axis=None), np.concatenate(other, axis=None))
        np.testing.assert_array_equal(np.concatenate(one, axis=None), np.concatenate(same, axis=None))


def test_sampling_and_scoring_agree_and_packed_suffixes_are_sequences_of_their_own(llama, mesh):
    model = with_random_adapter(hf.load(llama, mesh, lora=LORA))
    (completion,) = generate.generate(model, [[5, 6, 7]], generate.Sampling(12), seed=0, batch_size=1)
    tokens = jnp.asarray([[5, 6, 7, *completion.tokens]])
    logprobs, _ = score.sequence_logprobs(model, tokens, jnp.asarray([tokens.shape[1]]), jnp.float32(1.0))
    np.testing.assert_allclose(logprobs[0, 2:], completion.logprobs, atol=1e-4)
    scalar = with_random_adapter(hf.load(llama, mesh, kind="scalar", lora=LORA))
    prefix = list(range(5, 45))
    rows = [[*prefix, 50, 51], [*prefix, 60]]
    alone = [value for _, value in sorted(score.stream_rewards(scalar, rows, batch_size=1))]
    np.testing.assert_allclose(score.group_rewards(scalar, [rows], batch_size=1)[0], alone, atol=1e-4)


def test_remat_does_not_change_gradients(llama, mesh):
    gradients = []
    for remat in ("none", "full"):
        model = with_random_adapter(hf.load(llama, mesh, lora=LORA, remat=remat))
        grad = jax.grad(lambda p, model=model: language_model.loss_fn(model.with_params(p), BATCH)["loss"])
        gradients.append(jax.tree.leaves(grad(model.params)))
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_backbone_is_stored_in_the_compute_dtype_and_adapters_in_their_own(llama, mesh):
    model = hf.load(llama, mesh, lora=LORA, param_dtype="float32", compute_dtype="bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(model.params)} == {"float32"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(model.frozen)} == {"bfloat16"}


def test_int8_is_off_by_half_a_step_of_each_column_at_most(llama, mesh):
    values, scale = quantise(np.asarray([[1.27, 0.0, -5.0], [0.004, 0.0, 2.0], [-0.006, 0.0, 2.5]], np.float32))
    np.testing.assert_array_equal(values, [[127, 0, -127], [0, 0, 51], [-1, 0, 64]])
    np.testing.assert_allclose(scale, [0.01, 1 / 127, 5 / 127], rtol=1e-6)
    exact = hf.load(llama, mesh, lora=LORA)
    model = hf.load(llama, mesh, lora=dataclasses.replace(LORA, int8=True))
    wide, narrow = as_numpy(exact), as_numpy(model)
    for path, kernel in wide.items():
        if path[-1] == "kernel" and path[0] == "layers":
            scale = narrow[(*path[:-1], "kernel_scale")]
            assert narrow[path].dtype == np.int8
            error = np.abs(narrow[path] * scale[:, None] - kernel)
            assert (error <= 0.5001 * scale[:, None]).all()
            np.testing.assert_allclose(scale, np.abs(kernel).max(axis=1) / 127, rtol=1e-6)
        else:
            np.testing.assert_array_equal(narrow[path], kernel)
    # The program multiplies by the matrices that are stored.
    arrays = {
        path: narrow[path] * narrow[(*path[:-1], "kernel_scale")][:, None]
        if (*path[:-1], "kernel_scale") in narrow and path[-1] == "kernel"
        else narrow[path]
        for path, _ in model_leaves(exact)
    }
    assert_close(logits(model), logits(with_arrays(exact, {p: jnp.asarray(a) for p, a in arrays.items()})))
    assert np.abs(logits(model) - logits(exact)).max() > 0.01


def test_an_int8_backbone_is_shared_and_trained_on(llama, mesh, tmp_path):
    lora = dataclasses.replace(LORA, int8=True)
    policy = with_random_adapter(hf.load(llama, mesh, lora=lora))
    grads = jax.grad(lambda p: language_model.loss_fn(policy.with_params(p), BATCH)["loss"])(policy.params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
    hf.save(tmp_path / "adapter", policy)
    reader = hf.load(tmp_path / "adapter", mesh, backbone=policy)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (reader.frozen, policy.frozen)), strict=True))
    (completion,) = generate.generate(reader, [[5, 6, 7]], generate.Sampling(12), seed=0, batch_size=1)
    tokens = jnp.asarray([[5, 6, 7, *completion.tokens]])
    logprobs, _ = score.sequence_logprobs(reader, tokens, jnp.asarray([tokens.shape[1]]), jnp.float32(1.0))
    np.testing.assert_allclose(logprobs[0, 2:], completion.logprobs, atol=1e-4)


# --- folders ---

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
    changes = {
        "use_dora": True, "bias": "all", "peft_type": "IA3", "r": 0, "task_type": "SEQ_2_SEQ_LM",
        "rank_pattern": {"q_proj": 8}, "base_model_name_or_path": None,
    }  # fmt: skip
    for key, value in changes.items():
        config.write_text(json.dumps(original | {key: value}))
        with pytest.raises(ValueError, match=rf"adapter_config.json: {key}"):
            folders.check(adapter)
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


@pytest.mark.parametrize(("name", "value"), [("rank", -1), ("alpha", 0), ("dropout", 0.1)])
def test_settings_out_of_range_are_refused(name, value):
    settings = {"rank": 8, "alpha": 16.0, "targets": "q, v", "dropout": 0.0, "int8": False}
    assert Lora.of(settings) == Lora(8, 16.0, ("q", "v"))
    assert Lora.of(settings | {"rank": 0}) is None
    with pytest.raises(ValueError, match=f"--config.lora.{name}={value}"):
        Lora.of(settings | {name: value})
    with pytest.raises(ValueError, match=r"give --config\.lora\.rank as well"):
        Lora.of(settings | {"rank": 0, "int8": True})
