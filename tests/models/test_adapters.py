"""Low-rank adapters: what they compute, what is trained, and a backbone in 8 bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from lc_jax import parallel
from lc_jax.inference import generate, score
from lc_jax.models import hf, registry
from lc_jax.models.config import Lora
from lc_jax.models.linear import quantise
from lc_jax.models.params import model_leaves, named_arrays, with_arrays
from lc_jax.training import language_model
from tests.models.conftest import PRESETS, assert_same, random_model

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


def test_a_mesh_with_all_axes_computes_as_one_device_does_and_splits_adapters_as_their_matrices(llama):
    axes = {"axis_types": (AxisType.Auto,) * 3}
    one_device = jax.make_mesh((1, 1, 1), parallel.AXES, devices=jax.devices()[:1], **axes)
    results = []
    for each in (one_device, jax.make_mesh((2, 2, 2), parallel.AXES, **axes)):
        with jax.set_mesh(each):
            model = with_random_adapter(hf.load(llama, each, lora=LORA))
            grad = jax.jit(jax.grad(lambda p, m: language_model.loss_fn(m.with_params(p), BATCH)["loss"]))
            (done,) = generate.generate(model, [[5, 6, 7]], generate.Sampling(8), seed=0, batch_size=2)
            results.append([logits(model), *jax.tree.leaves(grad(model.params, model)), np.asarray(done.logprobs)])
    for one, another in zip(*results, strict=True):
        assert_close(np.asarray(one), np.asarray(another))
    shards = {path[1:]: leaf.sharding.shard_shape(leaf.shape) for path, leaf in registry.named_leaves(model.params)}
    assert shards["q", "lora_a"] == (2, 16, 3)  # of [2, 32, 3]: over fsdp, as the rows of the matrix
    assert shards["q", "lora_b"] == (2, 3, 16)  # over tensor, as its columns
    assert shards["down", "lora_a"] == (2, 32, 3)
    assert shards["down", "lora_b"] == (2, 3, 16)


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
