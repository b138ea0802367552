"""Every implementation of attention against softmax in float64: values, gradients, padding, groups, block edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.kernels import attention as kernel
from lc_jax.kernels import dispatch

SCALE = kernel.ScoreScaling(0.3)


CASES = {  # a window is in tokens, the query's own the last of them
    "plain": (kernel.ScoreScaling(0.3), None),
    "window": (kernel.ScoreScaling(0.3), 5),
    "softcap": (kernel.ScoreScaling(0.3, softcap=1.5), None),
    "both": (kernel.ScoreScaling(0.3, softcap=1.5), 40),
}


def exact(q, k, v, spans, scaling=SCALE, window=None):
    """Causal attention inside the spans by numpy in float64; queries without keys are zero."""
    (_, length, heads, _), groups = q.shape, k.shape[2]
    k, v = (np.repeat(x, heads // groups, axis=2) for x in (k, v))
    scores = np.einsum("bthk,bshk->bhts", q, k) * scaling.factor
    if scaling.softcap is not None:
        scores = scaling.softcap * np.tanh(scores / scaling.softcap)
    positions = np.arange(length)
    reach = length if window is None else window
    sees = (positions <= positions[:, None]) & (positions > positions[:, None] - reach)
    sees = sees & ((positions >= spans[:, :1]) & (positions < spans[:, 1:]))[:, None, :]
    weights = np.where(sees[:, None], np.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    return np.einsum("bhts,bshk->bthk", weights / np.where(total > 0, total, 1.0), v)


def row_mask(spans):
    return kernel.RowMask(*(jnp.asarray(side, jnp.int32) for side in np.asarray(spans).T))


def inputs(length, heads=4, groups=2, size=16, batch=3):
    rng = np.random.default_rng(length)
    return [rng.normal(size=(batch, length, count, size)) for count in (heads, groups, groups)]


def inside(spans, length):
    positions = np.arange(length)
    return ((positions >= spans[:, :1]) & (positions < spans[:, 1:]))[..., None, None]


def single(arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def slopes(function, arrays, weights, epsilon=1e-5):
    """Derivatives of sum(weights * function) along three random directions, by differences in float64."""
    rng = np.random.default_rng(7)
    slopes_ = []
    for _ in range(3):
        ways = [rng.normal(size=x.shape) for x in arrays]
        ends = [
            np.sum(weights * function(*(x + sign * epsilon * w for x, w in zip(arrays, ways, strict=True))))
            for sign in (1, -1)
        ]
        slopes_.append((ways, (ends[0] - ends[1]) / (2 * epsilon)))
    return slopes_


@pytest.mark.parametrize("implementation", ["portable", "blocked"])
@pytest.mark.parametrize("length", [1, 31, 33, 70])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_against_float64(implementation, length, side, case):
    """Lengths at and across the edges of blocks; one row is empty."""
    q, k, v = inputs(length)
    ends = np.array([[0, length], [0, length // 2], [0, 0]])
    spans = ends if side == "right" else length - ends[:, ::-1]
    weights = np.random.default_rng(1).normal(size=q.shape)
    scaling, window = CASES[case]
    expected = exact(q, k, v, spans, scaling, window)
    mask = row_mask(spans).replace(window=window)
    function = functools.partial(kernel.attention, mask=mask, scaling=scaling, implementation=implementation)
    out, back = jax.vjp(jax.jit(lambda *args: function(*args)), *single((q, k, v)))
    np.testing.assert_allclose(out, expected, atol=1e-5)
    grads = back(jnp.asarray(weights, jnp.float32))
    for ways, slope in slopes(lambda *args: exact(*args, spans, scaling, window), (q, k, v), weights):
        actual = sum(np.sum(np.asarray(g, np.float64) * w) for g, w in zip(grads, ways, strict=True))
        np.testing.assert_allclose(actual, slope, rtol=1e-4, atol=1e-4)


def test_a_window_of_three_tokens():
    """Query 4 sees the keys 2 to 4; a suffix sees the end of the prefix by its place in its own sequence."""
    visible = kernel.RowMask(window=3).visible(0, 6)[0].astype(int).tolist()
    assert visible == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]
    packed = kernel.RowMask(segment_ids=jnp.array([[0, 0, 0, 1, 1, 2, -1]]), window=3).visible(0, 7)[0].astype(int)
    assert packed.tolist()[3:6] == [[0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1, 0]]
    padded_left = kernel.RowMask(jnp.array([2]), window=3)
    assert padded_left.visible_at(jnp.int32(3), 6)[0, 0].astype(int).tolist() == [0, 0, 1, 1, 0, 0]
    assert padded_left.visible_at(jnp.int32(5), 6)[0, 0].astype(int).tolist() == [0, 0, 0, 1, 1, 1]
    # Two tokens of a prefix before column 2: the query there is its sequence's third, the one after it the fourth.
    assert padded_left.visible_prefix(jnp.array([2, 3, 4]), 2)[0].astype(int).tolist() == [[1, 1], [0, 1], [0, 0]]


def test_blocks_cover_a_sequence_once_and_are_few():
    for length in (1, 31, 32, 33, 128, 300, 1024):
        blocks = list(kernel._blocks(length))
        assert [start for start, _ in blocks[1:]] == [end for _, end in blocks[:-1]]
        assert (blocks[0][0], blocks[-1][1]) == (0, length)
        assert len(blocks) <= kernel.MAX_BLOCKS


def test_blocked_multiplies_less_than_the_square():
    """Operations the compiler counts: five eighths of the square with four blocks, forward and backward."""
    arrays = single(inputs(128))

    def flops(implementation):
        def total(q, k, v):
            return kernel.attention(q, k, v, kernel.RowMask(), SCALE, implementation).sum()

        compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(*arrays).compile()
        return compiled.cost_analysis()["flops"]

    assert flops("blocked") < 0.8 * flops("portable")


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("case", CASES)
def test_behind_a_shared_prefix_as_behind_ones_own(dtype, atol, case):
    """A window of 40 tokens ends within the prefix, one of 5 hides all of it from most queries."""
    (scaling, window), count, length = CASES[case], 40, 70
    q, k, v = (x.astype(dtype) for x in single(inputs(length)))
    k, v = (x.at[:, :count].set(x[0, :count]) for x in (k, v))
    expected = exact(*(np.asarray(x, np.float64) for x in (q, k, v)), np.array([[0, length]] * 3), scaling, window)
    prefix = tuple(x[:1, :count].swapaxes(1, 2) for x in (k, v))
    mask = kernel.RowMask(jnp.zeros(3, jnp.int32), window=window)
    prefill = jax.jit(functools.partial(kernel.prefill_attention, scaling=scaling))
    out = prefill(*(x[:, count:] for x in (q, k, v)), mask, prefix=prefix)
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float64), expected[:, count:], atol=atol)
    keys, values = (x[:, count:].swapaxes(1, 2) for x in (k, v))
    decode = jax.jit(functools.partial(kernel.decode_attention, scaling=scaling))
    last = decode(q[:, -1], keys, values, mask, jnp.int32(length - count - 1), prefix=prefix)
    np.testing.assert_allclose(np.asarray(last, np.float64), expected[:, -1], atol=atol)


def test_blocked_in_bfloat16():
    q, k, v = (x.astype(jnp.bfloat16) for x in single(inputs(70)))
    expected = exact(*(np.asarray(x, np.float64) for x in (q, k, v)), np.array([[0, 70]] * 3))
    out = kernel.attention(q, k, v, kernel.RowMask(), SCALE, "blocked")
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

    def run(implementation):
        function = functools.partial(
            kernel.attention,
            mask=kernel.RowMask(ends=jnp.asarray(spans[:, 1])),
            scaling=SCALE,
            implementation=implementation,
        )
        out, back = jax.vjp(function, *arrays)
        return out, back(weights)

    (out, grads), (_, expected) = run("splash"), run("portable")
    np.testing.assert_allclose(out, np.where(mask, exact(q, k, v, spans), 0.0), atol=1e-5)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def lowered(implementation, platform, monkeypatch, dtype, size):
    """Returns the program with gradients that the compiler of another platform would get."""
    monkeypatch.setattr(jax, "default_backend", lambda: {"cuda": "gpu"}.get(platform, platform))
    arrays = [jax.ShapeDtypeStruct((2, 256, heads, size), dtype) for heads in (4, 2, 2)]
    mask = kernel.RowMask(ends=jax.ShapeDtypeStruct((2,), jnp.int32))

    def total(q, k, v, mask):
        return kernel.attention(q, k, v, mask, SCALE, implementation).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*arrays, mask)
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
        assert dispatch.attention_implementation(kernels, jnp.dtype(dtype), head_dim) == expected
    assert dispatch.attention_implementation("portable", jnp.dtype(dtype), head_dim) == "portable"


def test_cudnn_for_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="here they are of 32 in float32"):
        dispatch.attention_implementation("cudnn", jnp.dtype("float32"), 32)


@pytest.mark.parametrize("fused", dispatch.FUSED)
def test_what_fused_kernels_lack_is_computed_by_others(fused):
    plain, capped, segments = kernel.ScoreScaling(1.0), kernel.ScoreScaling(1.0, 50.0), jnp.zeros((1, 4), jnp.int32)
    for mask, scaling, expected in (
        (kernel.RowMask(), plain, fused),
        (kernel.RowMask(starts=jnp.array([1])), plain, "portable"),
        (kernel.RowMask(segment_ids=segments), plain, "blocked"),
        (kernel.RowMask(window=4), plain, "blocked"),
        (kernel.RowMask(), capped, "blocked"),
    ):
        assert dispatch.unfused_implementation(fused, mask, scaling) == expected
        assert dispatch.unfused_implementation("portable", mask, scaling) == "portable"
    assert dispatch.logprobs_implementation("pallas") == "pallas"
    assert dispatch.logprobs_implementation("pallas", 30.0) == "analytic"


# --- which keys a query sees ---


def test_packed_suffixes_see_the_shared_prefix_and_themselves():
    mask = kernel.RowMask(segment_ids=jnp.array([[0, 0, 1, 1, 2, -1]]))
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
    ]
    assert mask.visible(0, 6)[0, :5].astype(int).tolist() == expected
    assert mask.visible(2, 5)[0].astype(int).tolist() == [row[:5] for row in expected[2:]]
    assert mask.positions(6).tolist() == [[0, 1, 2, 3, 2, 1]]


def test_padding_on_either_side_is_not_seen():
    mask = kernel.RowMask(jnp.array([2, 0]), jnp.array([4, 1]))
    assert mask.visible(0, 4).astype(int).tolist() == [
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]],
        [[1, 0, 0, 0]] * 4,
    ]
    assert mask.positions(4).tolist() == [[1, 1, 0, 1], [0, 1, 1, 1]]
    assert kernel.RowMask().positions(3).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("implementation", ["portable", "blocked"])
def test_a_packed_suffix_attends_as_if_it_alone_followed_the_prefix(implementation):
    prefix, lengths = 30, (7, 5, 20)
    q, k, v = inputs(prefix + sum(lengths), batch=1)
    ids = np.repeat(np.arange(4), (prefix, *lengths))
    mask = kernel.RowMask(segment_ids=jnp.asarray(ids[None]))
    out = kernel.attention(*single((q, k, v)), mask, SCALE, implementation)
    for number, length in enumerate(lengths, 1):
        part = np.flatnonzero((ids == 0) | (ids == number))
        alone = exact(*(x[:, part] for x in (q, k, v)), np.array([[0, prefix + length]]))
        np.testing.assert_allclose(out[:, part[prefix:]], alone[:, prefix:], atol=1e-5)
