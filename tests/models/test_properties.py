"""Properties of any decoder: causality, independence of padding, cache = no cache, any mesh, any remat."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.models import decoding, registry, transformer
from lc_jax.models.config import Lora
from lc_jax.models.rope import rotate
from lc_jax.models.transformer import trainable
from lc_jax.training import language_model, loop, optimizer, state
from tests import programs

VOCAB = 64
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    bos_token_id=1,
    eos_token_id=2,
)
FAMILIES = {
    "llama": SHAPE | dict(model_type="llama", num_key_value_heads=2),
    "neox_parallel": SHAPE | dict(model_type="gpt_neox", rotary_pct=0.5),
    "neox_sequential": SHAPE | dict(model_type="gpt_neox", rotary_pct=1.0, use_parallel_residual=False),
}
ONE_DEVICE = programs.mesh_of()


@functools.cache
def build(name, **precision):
    """A model on one device, its kernels five times as large as at birth so that attention is not flat."""
    raw = FAMILIES[name]
    config = registry.config_from_hf(raw, **precision)
    model = registry.initialize(config, jax.random.key(0), ONE_DEVICE)
    return model.with_params(jax.tree.map(lambda x: 5.0 * x if x.ndim > 1 else x, model.params))


@pytest.mark.parametrize("planes", [2, 4])
def test_the_gradient_of_a_rotation_is_that_of_its_formula(planes):
    """Compares with complex numbers: plane i is x[i] + 1j x[i + planes]; later dimensions do not change."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, by_y = (jax.random.normal(key, (2, 3, 2, 8)) for key in keys[:2])
    angles = jax.random.normal(keys[2], (2, 3, planes))

    def formula(x):
        turned = jax.lax.complex(x[..., :planes], x[..., planes : 2 * planes]) * jnp.exp(1j * angles)[:, :, None]
        return jnp.concatenate([turned.real, turned.imag, x[..., 2 * planes :]], axis=-1)

    outs = [jax.vjp(f, x) for f in (formula, lambda x: rotate(x, jnp.cos(angles), jnp.sin(angles)))]
    np.testing.assert_allclose(outs[1][0], outs[0][0], atol=1e-6)
    np.testing.assert_allclose(outs[1][1](by_y)[0], outs[0][1](by_y)[0], atol=1e-6)


@pytest.mark.slow
def test_angles_are_made_once():
    """Not in every rotation of every layer and head, which is where XLA on CPUs would make them."""
    model = build("llama")

    def loss(params, tokens):
        return jnp.sum(model.with_params(params).bind()(tokens) ** 2)

    text = jax.jit(jax.grad(loss)).lower(model.params, jnp.ones((2, 16), jnp.int32)).compile().as_text()
    assert len(re.findall(r" (?:cosine|sine)\(", text)) == 2


def with_config(model, **changes):
    """The same parameters under another config."""
    config = dataclasses.replace(model.config, **changes)
    return registry.abstract_model(config).with_params(model.params)


@pytest.fixture(params=["llama", "neox_parallel", pytest.param("neox_sequential", marks=pytest.mark.slow)])
def model(request):
    return build(request.param)


@jax.jit
def hidden_of(model, tokens, lengths=None, starts=None):
    return model.bind()(tokens, lengths, starts=starts)


def ragged(number, longest, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, n).tolist() for n in [longest, 1, *rng.integers(2, longest, number - 2)]]


# --- causality and padding ---


@pytest.mark.parametrize("padded", [False, True])
def test_no_gradient_from_later_or_padding_tokens(model, padded):
    """d hidden[t] / d embedding[s] is zero for s > t and for padding s, not zero for the other real tokens."""
    length = 9
    module, rows = model.bind(), {"lengths": jnp.array([6]), "starts": jnp.array([2])} if padded else {}
    graphdef, params = nnx.split(module)

    def hidden(embedded):
        """One embedding row per token, so that its gradient is that of the token."""
        inner = nnx.merge(graphdef, params)
        inner.embedding = nnx.Param(embedded)
        return inner(jnp.arange(length)[None], **rows)[0]

    jacobian = jax.jit(jax.jacrev(hidden))(module.embedding[...][:length])  # [t, D, s, D]
    reach = np.abs(np.asarray(jacobian)).sum(axis=(1, 3))
    start, end = (2, 8) if padded else (0, length)
    t, s = np.indices((length, length))
    inside = (start <= t) & (t < end)
    visible = (s <= t) & (start <= s) & (s < end)
    assert np.all(reach[inside & ~visible] == 0)
    assert np.all(reach[inside & visible] > 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_garbage_in_padding_changes_nothing(model, side):
    padded = batches.pad(ragged(5, 12), 16, side=side)
    columns = np.arange(16) - padded.starts[:, None]
    real = (columns >= 0) & (columns < padded.lengths[:, None])
    garbage = np.where(real, padded.tokens, np.random.default_rng(3).integers(0, VOCAB, padded.tokens.shape))
    one, other = (
        np.asarray(hidden_of(model, t.astype(np.int32), padded.lengths, padded.starts))
        for t in (padded.tokens, garbage)
    )
    np.testing.assert_array_equal(one[real], other[real])


def test_padding_length_and_side_change_nothing(model):
    sequences = ragged(4, 12)
    expected = None
    for width, side in ((12, "right"), (16, "right"), (29, "right"), (16, "left"), (29, "left")):
        padded = batches.pad(sequences, width, side=side)
        hidden = np.asarray(hidden_of(model, padded.tokens, padded.lengths, padded.starts))
        real = zip(hidden, padded.starts, padded.lengths, strict=True)
        rows = np.concatenate([row[start : start + length] for row, start, length in real])
        expected = rows if expected is None else expected
        np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_rows_do_not_feel_each_other(model):
    padded = batches.pad(ragged(4, 12), 12)
    together = np.asarray(hidden_of(model, padded.tokens, padded.lengths))
    for row in range(4):
        alone = hidden_of(model, padded.tokens[row : row + 1], padded.lengths[row : row + 1])
        end = padded.lengths[row]
        np.testing.assert_allclose(together[row, :end], alone[0, :end], atol=1e-5)


@pytest.mark.parametrize("width", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_rows_without_tokens_are_finite(model, width):
    """And so are the gradients; a single token of padding has position 1, past its row's end."""
    tokens, lengths, starts = np.zeros((2, width), np.int32), np.zeros(2, np.int32), np.array([0, width], np.int32)
    hidden, back = jax.vjp(lambda params: hidden_of(model.with_params(params), tokens, lengths, starts), model.params)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((hidden, back(jnp.ones_like(hidden)))))


# --- the cache ---


@pytest.mark.parametrize("per_layer", [True, False])
def test_cached_decode_is_the_full_forward_pass(model, per_layer, monkeypatch):
    """Prompts of several lengths, left-padded; then token by token, the cache growing on the way."""
    monkeypatch.setattr(transformer, "is_per_layer", lambda config: per_layer)
    prompts, new = ragged(4, 10), 8
    continuation = np.random.default_rng(5).integers(3, VOCAB, (4, new))
    padded = batches.pad(prompts, 12, side="left")
    full = [[*p, *c] for p, c in zip(prompts, continuation.tolist(), strict=True)]
    expected_rows = batches.pad(full, 24)
    expected = np.asarray(hidden_of(model, expected_rows.tokens, expected_rows.lengths))

    module, starts = model.bind(), jnp.asarray(padded.starts)
    hidden, cache = jax.jit(lambda *args: module.prefill(*args))(
        jnp.asarray(padded.tokens), starts, module.init_cache(4, 16), module.decoding_layers()
    )
    for row, prompt in enumerate(prompts):
        np.testing.assert_allclose(hidden[row, 12 - len(prompt) :], expected[row, : len(prompt)], atol=2e-5)
    decode = jax.jit(lambda *args: module.decode(*args))
    for index in range(new):
        if index == 4:
            cache = cache.grow(12 + new)
        hidden, cache = decode(
            jnp.asarray(continuation[:, index]), starts, jnp.int32(12 + index), cache, module.decoding_layers()
        )
        for row, prompt in enumerate(prompts):
            np.testing.assert_allclose(hidden[row], expected[row, len(prompt) + index], atol=2e-5)


def test_generation_reads_transposed_copies_of_each_layer():
    """In the compute dtype; norms are not converted."""
    model = build("llama", param_dtype="float32", compute_dtype="bfloat16")
    layers = model.bind().decoding_layers()
    assert len(layers) == 2
    (params, kind), stacked = layers[1], nnx.split(model.bind().layers)[1]
    assert kind is None
    assert params["up"]["kernel"][...].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["up"]["kernel"][...], stacked["up"]["kernel"][1].T.astype(jnp.bfloat16))
    np.testing.assert_array_equal(params["mlp_norm"]["scale"][...], stacked["mlp_norm"]["scale"][1])


def test_which_models_are_generated_from_per_layer_arrays(monkeypatch):
    """Shallow ones everywhere; deep ones on CPUs, unless they are stored in 8 bits."""
    shallow, int8 = build("llama").config, Lora(rank=2, alpha=2.0, int8=True)
    deep = dataclasses.replace(shallow, num_layers=decoding.UNROLL + 1)
    configs = [shallow, deep, dataclasses.replace(deep, lora=int8), dataclasses.replace(shallow, lora=int8)]
    assert [decoding.is_per_layer(config) for config in configs] == [True, True, False, True]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [decoding.is_per_layer(config) for config in configs] == [True, False, False, True]


# --- devices ---


def on(mesh, model):
    """The same parameters laid out over `mesh`."""
    return model.with_params(jax.device_put(model.params, parallel.shardings(model.params, mesh)))


def test_logits_on_one_device_and_on_a_mesh(model):
    padded = batches.pad(ragged(8, 14), 16)
    expected = model.bind().logits(hidden_of(model, padded.tokens, padded.lengths))
    mesh = parallel.make_mesh(fsdp=4, tensor=2)
    spread = on(mesh, model)
    assert len(spread.bind().layers.up.kernel[...].sharding.device_set) == 8
    assert not spread.bind().layers.up.kernel[...].is_fully_replicated
    with jax.set_mesh(mesh):
        hidden = hidden_of(spread, *parallel.put_batch((padded.tokens, padded.lengths)))
        logits = jax.jit(lambda m, h: m.bind().logits(h))(spread, hidden)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def batch(step):
    """Eight rows with prompts of two tokens."""
    padded = batches.pad(ragged(8, 14, seed=step), 16)
    return {"tokens": padded.tokens, "lengths": padded.lengths, "first_targets": np.full(8, 2, np.int32)}


def losses_over_five_steps(model, mesh, microbatches=1):
    settings = optimizer.OptimizerSettings(1e-2, 10, 1, "cosine", 0.9, 0.95, 1e-5, 0.01, 1.0)
    tx = optimizer.make_optimizer(settings, trainable(model.params))
    model = on(mesh, model)
    losses = []
    with jax.set_mesh(mesh):
        current = state.create(jax.tree.map(jnp.copy, model.params), tx)
        for step in range(5):
            current, metrics = loop.train_step(
                current,
                model.with_params(None),
                parallel.put_batch(batch(step)),
                loss_fn=language_model.loss_fn,
                tx=tx,
                microbatches=microbatches,
            )
            losses.append(float(metrics["loss"]))
        probe = loop.eval_step(
            model.with_params(current.params), parallel.put_batch(batch(0)), loss_fn=language_model.loss_fn
        )
    return [*losses, float(probe["loss"] / probe["weight"])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["neox_parallel"])  # a Llama's training: tests/test_meshes.py
def test_training_on_one_device_and_on_a_mesh(name):
    mesh = parallel.make_mesh(fsdp=4, tensor=2)
    one, eight = losses_over_five_steps(build(name), ONE_DEVICE), losses_over_five_steps(build(name), mesh)
    np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-5)
    assert one[-1] < one[0]


def test_moments_lie_as_their_parameters(model):
    mesh = parallel.make_mesh(fsdp=4, tensor=2)
    spread = on(mesh, model)
    settings = optimizer.OptimizerSettings(1e-2, 10, 1, "cosine", 0.9, 0.95, 1e-5, 0.01, 1.0)
    with jax.set_mesh(mesh):
        fresh = state.create(spread.params, optimizer.make_optimizer(settings, trainable(spread.params)))
    expected = sorted(str(p.sharding.spec) for p in jax.tree.leaves(spread.params) for _ in range(2))
    moments = [m for m in jax.tree.leaves(fresh.opt_state) if m.ndim]
    assert sorted(str(m.sharding.spec) for m in moments) == expected


# --- remat, and loops over layers ---


@pytest.mark.parametrize("remat", ["full", pytest.param("dots", marks=pytest.mark.slow)])
def test_remat_changes_no_gradient(model, remat):
    grad = jax.jit(jax.grad(lambda m: language_model.loss_fn(m, batch(0))["loss"]))
    expected, actual = grad(model), grad(with_config(model, remat=remat))
    for a, b in zip(jax.tree.leaves(actual.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_remat_full_keeps_less_for_the_backward_pass():
    """The test above compares two programs: there are fewer residuals with remat than without."""

    def residual_bytes(remat):
        model = with_config(build("llama"), remat=remat)
        shapes = jax.eval_shape(lambda m: jax.vjp(lambda m: language_model.loss_fn(m, batch(0))["loss"], m)[1], model)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))

    none, dots, full = (residual_bytes(r) for r in ("none", "dots", "full"))
    assert full < dots < none


def test_unknown_remat_is_refused():
    with pytest.raises(ValueError, match=r"precision\.remat=some: give one of none, full, dots\."):
        with_config(build("llama"), remat="some")


def test_layers_in_a_loop_as_unrolled(model, monkeypatch):
    padded = batches.pad(ragged(4, 12), 16)
    expected = hidden_of(model, padded.tokens, padded.lengths)
    monkeypatch.setattr("lc_jax.models.transformer.UNROLL", 1)
    actual = model.bind()(padded.tokens, padded.lengths)
    real = np.arange(16) < padded.lengths[:, None]
    np.testing.assert_allclose(np.asarray(actual)[real], np.asarray(expected)[real], atol=1e-5)
