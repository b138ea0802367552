"""Every form of attention against softmax written out in float64: values, gradients, padding, groups, block edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.kernels import attention as kernel
from lc_jax.kernels import forms

SCALE = 0.3


def exact(q, k, v, spans):
    """Causal attention inside the spans by numpy in float64; queries without keys are zero."""
    (_, length, heads, _), groups = q.shape, k.shape[2]
    k, v = (np.repeat(x, heads // groups, axis=2) for x in (k, v))
    scores = np.einsum("bthk,bshk->bhts", q, k) * SCALE
    slots = np.arange(length)
    sees = (slots <= slots[:, None]) & ((slots >= spans[:, :1]) & (slots < spans[:, 1:]))[:, None, :]
    weights = np.where(sees[:, None], np.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhts,bshk->bthk", weights / np.where(total > 0, total, 1.0), v)


def inputs(length, heads=4, groups=2, size=16, batch=3):
    rng = np.random.default_rng(length)
    return [rng.normal(size=(batch, length, count, size)) for count in (heads, groups, groups)]


def inside(spans, length):
    slots = np.arange(length)
    return ((slots >= spans[:, :1]) & (slots < spans[:, 1:]))[..., None, None]


def single(arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def slopes(function, arrays, weights, epsilon=1e-5):
    """Derivatives of sum(weights * function) along three random directions, by differences in float64."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(3):
        ways = [rng.normal(size=x.shape) for x in arrays]
        ends = [
            np.sum(weights * function(*(x + sign * epsilon * w for x, w in zip(arrays, ways, strict=True))))
            for sign in (1, -1)
        ]
        found.append((ways, (ends[0] - ends[1]) / (2 * epsilon)))
    return found


@pytest.mark.parametrize("form", ["portable", "blocked"])
@pytest.mark.parametrize("length", [1, 31, 33, 70])
@pytest.mark.parametrize("side", ["left", "right"])
def test_against_float64(form, length, side):
    """Lengths at and across the edges of blocks; one row is empty."""
    q, k, v = inputs(length)
    ends = np.array([[0, length], [0, length // 2], [0, 0]])
    spans = ends if side == "right" else length - ends[:, ::-1]
    weights = np.random.default_rng(1).normal(size=q.shape)
    expected = exact(q, k, v, spans)
    function = functools.partial(kernel.attention, spans=jnp.asarray(spans, jnp.int32), scale=SCALE, form=form)
    out, back = jax.vjp(jax.jit(lambda *args: function(*args)), *single((q, k, v)))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    grads = back(jnp.asarray(weights, jnp.float32))
    for ways, slope in slopes(lambda *args: exact(*args, spans), (q, k, v), weights):
        found = sum(np.sum(np.asarray(g, np.float64) * w) for g, w in zip(grads, ways, strict=True))
        np.testing.assert_allclose(found, slope, rtol=1e-4, atol=1e-4)


def test_blocks_cover_a_sequence_once_and_are_few():
    for length in (1, 31, 32, 33, 128, 300, 1024):
        blocks = list(kernel._blocks(length))
        assert [start for start, _ in blocks[1:]] == [end for _, end in blocks[:-1]]
        assert (blocks[0][0], blocks[-1][1]) == (0, length)
        assert len(blocks) <= kernel.MAX_BLOCKS


def test_blocked_multiplies_less_than_the_square():
    """Operations the compiler counts: five eighths of the square with four blocks, forward and backward."""
    arrays = single(inputs(128))

    def flops(form):
        def total(q, k, v):
            return kernel.attention(q, k, v, None, SCALE, form).sum()

        compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*arrays).compile()
        return compiled.cost_analysis()["flops"]

    assert flops("blocked") < 0.8 * flops("portable")


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_behind_common_tokens_as_behind_ones_own(dtype, atol):
    count, length = 40, 70
    q, k, v = (x.astype(dtype) for x in single(inputs(length)))
    k, v = (x.at[:, :count].set(x[0, :count]) for x in (k, v))
    expected = exact(*(np.asarray(x, np.float64) for x in (q, k, v)), np.array([[0, length]] * 3))
    common = tuple(x[:1, :count].swapaxes(1, 2) for x in (k, v))
    spans = jnp.array([[0, length - count]] * 3)
    prefill = jax.jit(functools.partial(kernel.prefill_attention, scale=SCALE))
    out = prefill(*(x[:, count:] for x in (q, k, v)), spans, common=common)
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float64), expected[:, count:], atol=atol)
    keys, values = (x[:, count:].swapaxes(1, 2) for x in (k, v))
    last = jax.jit(kernel.decode_attention)(
        q[:, -1], keys, values, spans[:, 0], jnp.int32(length - count), SCALE, common
    )
    np.testing.assert_allclose(np.asarray(last, np.float64), expected[:, -1], atol=atol)


def test_blocked_in_bfloat16():
    q, k, v = (x.astype(jnp.bfloat16) for x in single(inputs(70)))
    spans = np.array([[0, 70]] * 3)
    expected = exact(*(np.asarray(x, np.float64) for x in (q, k, v)), spans)
    out = kernel.attention(q, k, v, None, SCALE, "blocked")
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=3e-2)


@pytest.mark.slow
@pytest.mark.parametrize("length", [40, 200])
def test_splash_interpreted(length):
    """Lengths and heads that are no multiple of a TPU's lanes; padding is zero and takes no gradient."""
    q, k, v = inputs(length, batch=2)
    spans = np.array([[0, length], [0, length // 3]])
    arrays, mask = single((q, k, v)), inside(spans, length)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape) * mask, jnp.float32)

    def run(form):
        function = functools.partial(kernel.attention, spans=jnp.asarray(spans), scale=SCALE, form=form)
        out, back = jax.vjp(function, *arrays)
        return out, back(weights)

    (out, grads), (_, expected) = run("splash"), run("portable")
    np.testing.assert_allclose(out, np.where(mask, exact(q, k, v, spans), 0.0), atol=1e-5)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def lowered(form, platform, monkeypatch, dtype, size):
    """What the compiler of another platform would be given, with gradients."""
    monkeypatch.setattr(jax, "default_backend", lambda: {"cuda": "gpu"}.get(platform, platform))
    arrays = [jax.ShapeDtypeStruct((2, 256, heads, size), dtype) for heads in (4, 2, 2)]
    spans = jax.ShapeDtypeStruct((2, 2), jnp.int32)

    def total(q, k, v, spans):
        return kernel.attention(q, k, v, spans, SCALE, form).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*arrays, spans)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 128), ("float32", 80)])
def test_splash_lowers_for_tpus(monkeypatch, dtype, size):
    text = lowered("splash", "tpu", monkeypatch, dtype, size)
    assert text.count("tpu_custom_call") >= 3  # forward, gradients of queries, gradients of keys and values


def test_cudnn_lowers_for_gpus(monkeypatch):
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91200)  # there is none on this machine
    text = lowered("cudnn", "cuda", monkeypatch, "bfloat16", 128)
    assert "__cudnn$fmhaSoftmax" in text
    assert "__cudnn$fmhaSoftmaxBackward" in text


@pytest.mark.parametrize(
    ("platform", "dtype", "head_dim", "expected"),
    [
        ("cpu", "float32", 32, "blocked"),
        ("cpu", "bfloat16", 128, "blocked"),
        ("gpu", "bfloat16", 128, "cudnn"),
        ("gpu", "float32", 128, "portable"),
        ("gpu", "bfloat16", 160, "portable"),
        ("tpu", "bfloat16", 80, "splash"),
    ],
)
def test_choice(monkeypatch, platform, dtype, head_dim, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    for kernels in ("auto", "pallas", "analytic"):
        assert forms.attention_form(kernels, jnp.dtype(dtype), head_dim) == expected
    assert forms.attention_form("portable", jnp.dtype(dtype), head_dim) == "portable"


def test_cudnn_for_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="here they are of 32 in float32"):
        forms.attention_form("cudnn", jnp.dtype("float32"), 32)
