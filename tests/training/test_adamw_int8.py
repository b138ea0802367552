"""int8 AdamW against float32 AdamW; codes, rounding, freezing, memory, meshes and resuming."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from lc_jax import memory, parallel
from lc_jax.training import adamw_int8, optimizer
from lc_jax.training import state as states
from lc_jax.training.adamw_int8 import FIRST, SECOND
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.logging import RunDirectory
from tests import programs


def make(params, kind, **changes):
    base = dict(learning_rate=1e-2, num_steps=100, warmup_steps=2, schedule="cosine", b1=0.9, b2=0.95, eps=1e-8)
    settings = optimizer.OptimizerSettings(**(base | dict(weight_decay=0.01, clip_norm=1.0, kind=kind) | changes))
    return optimizer.make_optimizer(settings, jax.tree.map(lambda _: True, params))


def stepper(tx):
    return jax.jit(lambda state, grads: states.apply_gradients(state, grads, tx)[0], donate_argnums=0)


def trees(dtype="float32", stack=(3, 24, 160)):
    """A stack of layers whose last axis is no multiple of 128, a matrix, a norm shorter than a block, one number."""
    rng = np.random.default_rng(0)
    shapes = {"stack": stack, "table": (50, 256), "norm": (3, 24), "bias": (1,)}
    return {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}


def gradients(params, step):
    """Some directions for all steps, noise besides; some steps are clipped; rows differ in scale by a thousand."""
    signal, noise = np.random.default_rng(1), np.random.default_rng(100 + step)
    scale = 0.003 if step % 3 else 1.0
    return {
        k: jnp.asarray(
            scale * (signal.normal(size=p.shape) + noise.normal(size=p.shape)) * 10 ** noise.uniform(-3, 0), jnp.float32
        )
        for k, p in params.items()
    }


# --- codes ---


@functools.partial(jax.jit, static_argnames="kind")
def coded(value, seed, kind):
    """Checks the codes and their values."""
    bits = adamw_int8.random_bits(jax.random.key(seed), value.shape) >> 16
    moment = adamw_int8.quantise(value, bits, kind)
    return moment, adamw_int8.dequantise(moment, kind)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from((1, 128, 300)), st.integers(0, 2**31 - 1), st.floats(-6, 8))
def test_codes_err_by_less_than_the_distance_to_the_next(length, seed, magnitude):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(2, length)) * 10.0 ** rng.uniform(-6, 0, (2, length)) * 10.0**magnitude, "float32")
    for value, kind in ((x, FIRST), (jnp.square(x), SECOND)):
        moment, read = coded(value, seed, kind)
        power, levels = kind
        assert moment.codes.shape == value.shape
        size = adamw_int8.block_size(length)
        scale = np.repeat(np.asarray(moment.scales), size, axis=1)[:, :length]
        value = np.asarray(value)
        root = np.minimum((np.abs(value) / np.maximum(scale, 1e-45)) ** (1 / power) * levels, levels - 1)
        gap = (((np.floor(root) + 1) / levels) ** power - (np.floor(root) / levels) ** power) * scale
        error = np.abs(np.asarray(read) - np.asarray(value))
        assert np.all(error <= gap * (1 + 1e-4))
        if kind == SECOND:
            assert np.all((np.asarray(moment.codes) > 0) == (np.asarray(value) > 0))


def test_values_of_codes_keep_their_codes():
    codes = jnp.arange(1, 256, dtype=jnp.uint8)[None]
    codes = jnp.concatenate([codes, jnp.full_like(codes[:, :1], 255)], axis=1)  # each block of 128 has its largest
    codes = codes.at[:, 0].set(255)
    moment = adamw_int8.Moment(codes, jnp.asarray([[2.0, 3.0]]))
    again = adamw_int8.quantise(adamw_int8.dequantise(moment, SECOND), jnp.full(codes.shape, 2**15, "uint32"), SECOND)
    np.testing.assert_array_equal(again.codes, codes)
    np.testing.assert_array_equal(again.scales, moment.scales)


def test_rounding_is_right_in_the_mean():
    """Second moments, first moments and bfloat16 parameters, each rounded 4,000 times; bits of neighbours differ."""
    x = jnp.asarray(np.abs(np.random.default_rng(0).normal(size=(1, 128))) ** 3, jnp.float32)
    many = jnp.broadcast_to(x, (4000, 128))
    bits = adamw_int8.random_bits(jax.random.key(0), many.shape)
    for kind in (FIRST, SECOND):
        moment = adamw_int8.quantise(many, bits >> 16, kind)
        mean = np.asarray(adamw_int8.dequantise(moment, kind)).mean(0)
        np.testing.assert_allclose(mean, x[0], rtol=0.05, atol=2e-4 * float(x.max()))
    rounded = adamw_int8.round_stochastically(many, bits & 0xFFFF)
    np.testing.assert_allclose(np.asarray(rounded, "float32").mean(0), x[0], rtol=2e-4)
    assert len(np.unique(bits)) > 0.999 * bits.size
    np.testing.assert_allclose(np.corrcoef(np.asarray(bits[:, :3], "float64").T) - np.eye(3), 0, atol=0.06)


def test_a_low_half_is_exact():
    x = np.random.default_rng(0).integers(0, 2**32, 4000, np.uint32).view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) < 3e38)]
    high, low = adamw_int8.split(jnp.asarray(x))
    assert (high.dtype, low.dtype) == (jnp.bfloat16, jnp.int16)
    np.testing.assert_array_equal(np.asarray(adamw_int8.join(high, low)).view(np.uint32), x.view(np.uint32))
    normal = np.abs(x) > 1e-37  # what is rounded half up is the nearest otherwise
    np.testing.assert_allclose(np.asarray(high, "float32")[normal], x[normal], rtol=2**-8)


def test_blocks_of_the_models_axes():
    """A long axis is cut into eight without cutting a block: 7B's hidden, intermediate and vocabulary sizes."""
    assert [adamw_int8.block_size(n) for n in (1, 24, 128, 320, 384, 4096, 11008, 32000)] == [
        1, 24, 128, 80, 128, 128, 86, 125
    ]  # fmt: skip
    for length in (4096, 11008, 32000, 50432, 2560, 6912):
        assert length // 8 % adamw_int8.block_size(length) == 0
        assert adamw_int8.block_size(length) >= 32


# --- against float32 AdamW ---


@pytest.mark.parametrize(("kind", "dtype", "tolerance"), [
    ("adamw_int8", "float32", 0.03), ("adamw_int8_master", "bfloat16", 0.03),
    pytest.param("adamw_int8", "bfloat16", 0.2, marks=pytest.mark.slow),
])  # fmt: skip
def test_forty_steps_as_float32(kind, dtype, tolerance):
    """The way that parameters have come is float32 AdamW's but for `tolerance` of its length.

    Rounding parameters at random is a walk of its own, about sqrt(steps x step x distance of two bfloat16).
    """
    start = trees("bfloat16")  # values that both dtypes have
    reference, ours = (jax.tree.map(lambda p, d=d: jnp.array(p, d), start) for d in ("float32", dtype))
    plain, tx = make(reference, "adamw"), make(ours, kind)
    expected, state = states.create(reference, plain), states.create(ours, tx)
    step_plain, step = stepper(plain), stepper(tx)
    for number in range(40):
        grads = gradients(start, number)
        expected, state = step_plain(expected, grads), step(state, grads)
    for name, p in start.items():
        want = np.asarray(expected.params[name], "float64") - np.asarray(p, "float64")
        got = state.params[name].astype(jnp.float32)
        if kind == "adamw_int8_master":
            got = adamw_int8.join(state.params[name], state.opt_state.low[name])
        error = np.asarray(got, "float64") - np.asarray(p, "float64") - want
        assert np.linalg.norm(error) < tolerance * np.linalg.norm(want), name
        assert state.params[name].dtype == dtype


def test_updates_in_optax_form_are_those_of_apply():
    params = trees("bfloat16")
    tx = make(params, "adamw_int8", warmup_steps=0)
    assert isinstance(tx, adamw_int8.InPlace)
    state, grads = tx.init(params), gradients(params, 0)
    updates, after = jax.jit(tx.update)(grads, state, params)
    applied, also = jax.jit(tx.apply)(grads, state, params, jnp.float32(1), jnp.bool_(True))
    for one, other in zip(
        jax.tree.leaves((optax.apply_updates(params, updates), after)), jax.tree.leaves((applied, also)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", optimizer.KINDS)
def test_untrained_parameters_and_bad_gradients_change_nothing(kind):
    params = trees("float32" if kind == "adamw" else "bfloat16")
    settings = optimizer.OptimizerSettings(1e-2, 9, 0, "constant", 0.9, 0.99, 1e-8, 0.5, 1.0, kind)
    tx = optimizer.make_optimizer(settings, {name: name != "table" for name in params})
    state, grads = states.create(params, tx), gradients(params, 0)
    assert params["table"].shape not in {x.shape for x in jax.tree.leaves(state.opt_state)}
    after, _ = states.apply_gradients(state, grads, tx)
    for name, p in params.items():
        assert np.all(np.asarray(after.params[name] == p)) == (name == "table")
    bad, norm = states.apply_gradients(after, grads | {"bias": jnp.full(1, jnp.nan)}, tx)
    assert (bool(jnp.isnan(norm)), int(bad.skipped), int(bad.step)) == (True, 1, 2)
    for one, other in zip(
        jax.tree.leaves((after.params, after.opt_state)), jax.tree.leaves((bad.params, bad.opt_state)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", optimizer.KINDS)
def test_gradients_may_be_sums(kind):
    params = trees("float32" if kind == "adamw" else "bfloat16")
    tx = make(params, kind, warmup_steps=0, eps=1.0)  # so that a wrong scale is seen
    state, grads = states.create(params, tx), gradients(params, 0)
    assert optax.tree.norm(grads) > 2  # clipped
    one, norm = states.apply_gradients(state, grads, tx)
    other, same = states.apply_gradients(state, jax.tree.map(lambda g: 8 * g, grads), tx, 8.0)
    assert float(norm) == pytest.approx(float(same), rel=1e-6)
    np.testing.assert_allclose(
        *(x.params["stack"].astype(jnp.float32) for x in (one, other)), rtol=1e-6 if kind == "adamw" else 0
    )


def test_bfloat16_parameters_do_not_freeze():
    """A least-squares problem at learning rate 3e-5: nearest rounding stops, the int8 kinds continue."""
    rng = np.random.default_rng(0)
    inputs, start = rng.normal(size=(64, 128)).astype("float32"), rng.normal(size=(128, 8)).astype("float32")
    weights = {"w": jnp.asarray(start, jnp.bfloat16)}
    targets = jnp.asarray(inputs @ (np.asarray(weights["w"], "float32") + 0.01 * rng.normal(size=start.shape)))

    def loss(params):
        return jnp.mean(jnp.square(inputs @ params["w"].astype(jnp.float32) - targets))

    def at_bfloat16(params):
        return loss(jax.tree.map(lambda p: p.astype(jnp.bfloat16), params))

    def remaining_loss(kind, dtype, objective=loss):
        params = jax.tree.map(lambda p: p.astype(dtype), weights)
        tx = make(params, kind, learning_rate=3e-5, weight_decay=0.0, schedule="constant", b2=0.999)

        def body(_, state):
            return states.apply_gradients(state, jax.grad(objective)(state.params), tx)[0]

        state = jax.jit(lambda state: jax.lax.fori_loop(0, 300, body, state))(states.create(params, tx))
        value = state.params
        if kind == "adamw_int8_master":
            value = {"w": adamw_int8.join(value["w"], state.opt_state.low["w"])}
        return float(loss(value) / loss(weights))

    assert remaining_loss("adamw", "bfloat16") > 0.8
    # The low half is as good as float32 parameters whose gradients are taken where bfloat16 has put them.
    reference = remaining_loss("adamw", "float32", at_bfloat16)
    assert remaining_loss("adamw_int8_master", "bfloat16") == pytest.approx(reference, abs=0.01)
    assert remaining_loss("adamw_int8", "bfloat16") < 0.25


# --- memory ---


@pytest.mark.parametrize(("kind", "dtype", "expected"), [
    ("adamw", "float32", 12.0), ("adamw_int8", "bfloat16", 4.0625), ("adamw_int8_master", "bfloat16", 6.0625),
])  # fmt: skip
def test_bytes_of_a_parameter_and_no_tree_of_updates(kind, dtype, expected):
    """The compiled step overwrites all that it holds, and beyond works on a layer at a time."""
    params = {name: jax.ShapeDtypeStruct((16, 256, 512), dtype) for name in "ab"}
    tx = make(params, kind)
    placed = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=one_device()), params)
    state = states.abstract(placed, tx)
    count = sum(math.prod(p.shape) for p in params.values())
    assert memory.shard_bytes((state.params, state.opt_state)) / count == pytest.approx(expected, rel=1e-4)
    grads = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), params)
    analysis = stepper(tx).lower(state, grads).compile().memory_analysis()
    new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    assert new < 1e-3 * count
    layer = 4 * 256 * 512
    assert analysis.temp_size_in_bytes < (1 if kind == "adamw" else 12) * layer < 0.4 * 4 * count


def one_device():
    mesh = programs.mesh_of()
    return jax.NamedSharding(mesh, jax.P())


# --- meshes and resuming ---


def on_eight(params):
    mesh = parallel.make_mesh(1, 4, 2)
    axes = {"stack": jax.P(None, "tensor", "fsdp"), "table": jax.P("tensor")}
    return {k: jax.device_put(p, jax.NamedSharding(mesh, axes.get(k, jax.P()))) for k, p in params.items()}


def wide():
    """Parameters of which two devices and more share an axis without cutting a block."""
    tree = trees("bfloat16", (2, 24, 2048))
    return {name: tree[name] for name in ("stack", "table")}


def test_eight_devices_as_one():
    """Bit for bit, clipping aside; moments lie where their parameters do; nothing is sent but the sum of the norm."""
    params = wide()
    tx = make(params, "adamw_int8", clip_norm=1e9, warmup_steps=0)
    grads = [gradients(params, n) for n in range(3)]
    one, eight = states.create(params, tx), states.create(on_eight(wide()), tx)
    step = stepper(tx)
    text = step.lower(eight, on_eight(grads[0])).compile().as_text()
    assert not re.findall(r" (?:all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(", text)
    for grad in grads:
        one, eight = step(one, grad), step(eight, on_eight(grad))
    for x, y in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_array_equal(x, y)
    for name, p in eight.params.items():
        for moment in (eight.opt_state.first, eight.opt_state.second):
            assert moment.codes[name].sharding.is_equivalent_to(p.sharding, p.ndim)
    scales = eight.opt_state.first.scales["stack"]
    assert scales.addressable_shards[0].data.size * 8 == scales.size


def test_resumed_bit_for_bit(tmp_path):
    params = wide()
    tx = make(params, "adamw_int8_master")
    step = stepper(tx)
    run_directory = RunDirectory(tmp_path, {}, ConfigDict({"project": "", "mode": "offline"}))
    with jax.set_mesh(parallel.make_mesh(1, 4, 2)):
        state = states.create(on_eight(wide()), tx)
        with Checkpoints(run_directory, every=2) as checkpoints:
            for number in range(3):
                state = step(state, on_eight(gradients(params, number)))
                checkpoints.save(number + 1, state)
        with Checkpoints(run_directory, every=2) as checkpoints:
            again, first = checkpoints.restore(states.create(on_eight(wide()), tx))
        assert first == 2
        again = step(again, on_eight(gradients(params, 2)))
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_unknown_kinds_and_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"optimizer\.kind=lion: give one of .*adamw_int8_master"):
        make({}, "lion")
    params = trees("float16")
    with pytest.raises(ValueError, match=r"param_dtype is float16"):
        states.create(params, make(params, "adamw_int8"))
