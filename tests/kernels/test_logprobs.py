"""token_logprobs against log_softmax in float64: values, gradients, chunks of odd lengths, memory, meshes, kernels."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lc_jax import parallel
from lc_jax.kernels import logprobs, logprobs_pallas


def plain(hidden, head, targets, temperature, softcap=None):
    """The same two outputs from the whole array of logits."""
    logits = hidden @ head
    logits = (logits if softcap is None else softcap * jnp.tanh(logits / softcap)) / temperature
    table = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(table, targets[..., None], axis=-1)[..., 0], -jnp.sum(jnp.exp(table) * table, axis=-1)


def inputs(batch=3, length=13, hidden=8, vocab=31):
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (batch, length, hidden)),
        jax.random.normal(keys[1], (hidden, vocab)),
        jax.random.randint(keys[2], (batch, length), 0, vocab),
    )


FORMS = ("portable", "analytic", "pallas")
VOCAB = 31


@pytest.fixture(params=[(10, VOCAB + 1), (1000, VOCAB + 1), (10, VOCAB), (1000, VOCAB)])
def chunk_tokens(request, monkeypatch):
    """Chunks of three or four tokens a row, which do not divide 13, and one of everything; short rows and long ones."""
    tokens, long_row = request.param
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", tokens * VOCAB)
    monkeypatch.setattr(logprobs, "LONG_ROW", long_row)
    return tokens


def in_float64(hidden, head, targets, temperature, weights, softcap=None):
    """The two outputs, and the gradients of their weighted sum by hidden states, head and temperature."""

    def total(*arrays):
        outs = plain(*arrays[:2], targets, arrays[2], softcap)
        return sum(jnp.sum(w * x) for w, x in zip(weights, outs, strict=True)), outs

    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(x), jnp.float64) for x in (hidden, head, temperature)]
        (_, outs), grads = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*arrays)
        return jax.device_get((outs, grads))


@pytest.mark.parametrize(
    ("implementation", "softcap"), [*((form, None) for form in FORMS), ("portable", 2.0), ("analytic", 2.0)]
)
@pytest.mark.parametrize("outputs", ["both", "logprobs", "entropies"])
def test_against_float64(chunk_tokens, implementation, softcap, outputs):
    """Values and gradients; a loss of one output alone takes a way of its own through the backward pass."""
    temperature = 0.7
    hidden, head, targets = inputs()
    # Random weights, so that errors at two positions cannot cancel.
    weights = np.random.default_rng(1).normal(size=(2, *targets.shape)).astype(np.float32)
    ways = {"both": (0, 1), "logprobs": (0,), "entropies": (1,)}[outputs]
    weighted = [w * (i in ways) for i, w in enumerate(weights)]
    expected, slopes = in_float64(hidden, head, targets, temperature, weighted, softcap)

    @jax.jit
    def gradients(hidden, head, temperature):
        def total(*arrays):
            outs = logprobs.token_logprobs(*arrays[:2], targets, arrays[2], implementation, softcap)
            return sum(jnp.sum(weights[i] * outs[i]) for i in ways), outs

        return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(hidden, head, temperature)

    grads, outs = gradients(hidden, head, jnp.float32(temperature))
    for a, b in zip(outs, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(grads, slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_padding_of_the_last_chunk_adds_nothing(monkeypatch):
    """With zero hidden states the padded positions would have entropy log V if they were let through."""
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 4 * 8)
    hidden, head, targets = jnp.zeros((1, 5, 4)), jnp.ones((4, 8)), jnp.zeros((1, 5), jnp.int32)
    chosen, entropies = logprobs.token_logprobs(hidden, head, targets, jnp.float32(1.0))
    assert chosen.shape == entropies.shape == (1, 5)
    np.testing.assert_allclose(chosen, -np.log(8), rtol=1e-6)
    np.testing.assert_allclose(entropies, np.log(8), rtol=1e-6)


@pytest.mark.parametrize("implementation", FORMS)
def test_certain_and_impossible_tokens_are_finite(implementation):
    head = jnp.array([[200.0, -200.0, 0.0]])
    chosen, entropies = logprobs.token_logprobs(
        jnp.ones((1, 2, 1)), head, jnp.array([[0, 1]]), jnp.float32(1.0), implementation
    )
    np.testing.assert_allclose(chosen, [[0.0, -400.0]], atol=1e-4)
    np.testing.assert_allclose(entropies, 0.0, atol=1e-4)


@pytest.mark.parametrize("implementation", FORMS)
def test_bfloat16_inputs_accumulate_in_float32(implementation):
    hidden, head, targets = (x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x for x in inputs())
    actual = logprobs.token_logprobs(hidden, head, targets, jnp.float32(1.0), implementation)
    expected = plain(hidden.astype(jnp.float32), head.astype(jnp.float32), targets, 1.0)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_heads_gradient_is_summed_in_float32(monkeypatch):
    """Many chunks in bfloat16: a sum kept in bfloat16 would stop growing."""
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 8)
    hidden, head = jnp.ones((1, 2048, 1), jnp.bfloat16), jnp.zeros((1, 8), jnp.bfloat16)
    targets = jnp.zeros((1, 2048), jnp.int32)
    grad = jax.grad(lambda head: logprobs.token_logprobs(hidden, head, targets, jnp.float32(1.0))[0].sum())(head)
    np.testing.assert_allclose(np.asarray(grad, np.float32)[0], 2048 * (np.eye(8)[0] - 1 / 8), rtol=1e-2)


@pytest.mark.parametrize("implementation", ["portable", "analytic"])
@pytest.mark.parametrize("gradient", [False, True])
def test_memory_is_far_below_all_logits(monkeypatch, gradient, implementation):
    batch, length, vocab = 4, 256, 4096
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 64 * vocab)
    arguments = inputs(batch, length, 8, vocab)

    def total(hidden, head, targets):
        return sum(x.sum() for x in logprobs.token_logprobs(hidden, head, targets, jnp.float32(1.0), implementation))

    function = jax.grad(total, argnums=(0, 1)) if gradient else total
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < batch * length * vocab * 4 / 3


@pytest.mark.parametrize("vocab", [logprobs.LONG_ROW, 50257])
def test_sums_over_a_long_vocabulary_do_not_lose_small_terms(vocab):
    """One large logit in each row, and more probability in all others together."""
    logits = np.random.default_rng(0).normal(size=(8, vocab)).astype(np.float32)
    logits[:, 3] = 10.0
    arguments = jnp.eye(8)[None], jnp.asarray(logits), jnp.arange(8)[None]
    outs = jax.jit(lambda *arrays: logprobs.token_logprobs(*arrays, jnp.float32(1.0)))(*arguments)
    table = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    np.testing.assert_allclose(outs[0][0], np.diag(table), atol=5e-6)
    np.testing.assert_allclose(outs[1][0], -(np.exp(table) * table).sum(-1), atol=2e-5)


def test_vocabulary_parallel(monkeypatch):
    """Eight devices, an eighth of the head each: no device is sent the head or logits, and nothing else changes."""
    monkeypatch.setattr(logprobs, "CHUNK_LOGITS", 8 * 64 // 8)
    monkeypatch.setattr(logprobs, "LONG_ROW", 1)  # else sums in pairs, which are not divided
    hidden, head, targets = inputs(4, 12, 16, 64)
    temperature, weights = jnp.float32(0.7), np.random.default_rng(1).normal(size=(2, 4, 12)).astype(np.float32)
    mesh = parallel.make_mesh(fsdp=1, tensor=8)

    def gradients(hidden, head):
        def total(hidden, head):
            outs = logprobs.token_logprobs(hidden, head, targets, temperature)
            return sum(jnp.sum(w * x) for w, x in zip(weights, outs, strict=True)), outs

        return jax.grad(total, argnums=(0, 1), has_aux=True)(hidden, head)

    with jax.set_mesh(mesh):
        whole, columns = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (None, "tensor")))
        arrays = jax.device_put(hidden, whole), jax.device_put(head, columns)
        compiled = jax.jit(gradients, out_shardings=((whole, columns), whole)).lower(*arrays).compile()
        (by_hidden, by_head), outs = compiled(*arrays)
    assert not re.findall(r"(all-gather|all-to-all|collective-permute)\(", compiled.as_text())
    # What is summed over devices: numbers of a token or its hidden state's gradient, never a row of logits.
    tokens = 4 * 12 // 6
    shapes = re.findall(r"= \(?([^=]*?)\)? all-reduce\(", compiled.as_text())
    sizes = [math.prod(map(int, d.split(","))) for s in shapes for d in re.findall(r"\w+\[([\d,]+)\]", s)]
    assert sizes
    assert max(sizes) <= tokens * 16
    expected, slopes = in_float64(hidden, head, targets, temperature, weights)
    for a, b in zip((*outs, by_hidden, by_head), (*expected, *slopes[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# --- the fused forward pass ---


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize(("count", "vocab"), [(70, 300), pytest.param(128, 512, marks=pytest.mark.slow)])
def test_kernels_interpreted(platform, count, vocab):
    """Tokens and columns that fill their tiles and that do not; the largest logits come first, last and in between."""
    hidden, head, targets = inputs(1, count, 32, vocab)
    head = head * jnp.linspace(0.1, 2.0, vocab)
    expected, _ = in_float64(hidden, head, targets, 0.7, np.ones((2, 1, count)))
    outs = logprobs_pallas.read(hidden[0], targets[0], head, jnp.float32(0.7), platform)
    for a, b in zip(outs[:2], expected, strict=True):
        np.testing.assert_allclose(a, b[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_kernels_lower(monkeypatch, platform, dtype):
    """At Llama 2 7B's shape, without the device."""
    monkeypatch.setattr(jax, "default_backend", lambda: {"cuda": "gpu"}.get(platform, platform))
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 300, 4096), (4096, 32000))]
    targets, number = jax.ShapeDtypeStruct((2, 300), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)

    def outputs(hidden, head, targets, temperature):
        return logprobs.token_logprobs(hidden, head, targets, temperature, "pallas")

    # Where there is no GPU, Triton wants to be told of one (JAX 0.11).
    gpu = jax.sharding.AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=gpu if platform == "cuda" else None)
    with jax.sharding.use_abstract_mesh(mesh):
        text = jax.jit(outputs).trace(*arrays, targets, number).lower(lowering_platforms=(platform,)).as_text()
    assert {"cuda": "triton", "tpu": "tpu_custom_call"}[platform] in text


def test_kernels_refuse_what_they_cannot_divide():
    arguments = (*inputs(), jnp.float32(1.0), "pallas")
    with jax.set_mesh(parallel.make_mesh(fsdp=8)), pytest.raises(ValueError, match="runs on one device"):
        logprobs.token_logprobs(*arguments)
    with pytest.raises(ValueError, match="16 divides, not 8"):
        logprobs_pallas.read(arguments[0][0], arguments[2][0], arguments[1], arguments[3], "gpu")
