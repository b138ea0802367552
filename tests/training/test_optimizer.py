"""Schedules against recorded ones, AdamW with clipping against torch, what stays frozen, what stays float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from lc_jax.training import optimizer
from tests.recorded import load


def settings(**changes):
    base = dict(
        learning_rate=1e-2,
        num_steps=10,
        warmup_steps=0,
        schedule="constant",
        b1=0.9,
        b2=0.95,
        eps=1e-5,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    return optimizer.OptimizerSettings(**(base | changes))


def test_recorded_schedules(golden):
    for case in load(golden / "ppo_math.json")["lr_schedules"]["cases"]:
        optimizer_settings = settings(
            learning_rate=2.0,
            schedule=case["kind"],
            warmup_steps=case["num_warmup_steps"],
            num_steps=case["num_training_steps"],
        )
        # After the last step the recorded cosine rises again, where ours stays 0; no update happens there.
        expected = 2.0 * np.array(case["factor_at_update"])[: case["num_training_steps"] + 1]
        actual = [optimizer_settings.learning_rate_at(step) for step in range(len(expected))]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_literal_schedules():
    def at(schedule, warmup=2):
        optimizer_settings = settings(learning_rate=1.0, schedule=schedule, warmup_steps=warmup, num_steps=6)
        return [round(float(optimizer_settings.learning_rate_at(step)), 6) for step in range(8)]

    assert at("constant") == [0, 0.5, 1, 1, 1, 1, 1, 1]
    assert at("linear") == [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0]
    assert at("cosine") == [0, 0.5, 1, 0.853553, 0.5, 0.146447, 0, 0]
    assert at("linear", warmup=0)[0] == 1


def test_warmup_ratio_rounds_up():
    rest = {k: v for k, v in vars(settings()).items() if k not in ("num_steps", "warmup_steps")}
    make = optimizer.OptimizerSettings.from_ratio
    assert make(100, warmup_ratio=0.03, **rest).warmup_steps == 3
    assert make(101, warmup_ratio=0.03, **rest).warmup_steps == 4
    assert make(100, warmup_ratio=0.03, warmup_steps=7, **rest).warmup_steps == 7
    assert make(100, **rest).warmup_steps == 0


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.schedule=step"):
        settings(schedule="step")


def trees():
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(5, 3)).astype(np.float32), "scale": rng.normal(size=4).astype(np.float32)}
    # Norms on both sides of the clipping threshold.
    grads = [
        {k: (scale * rng.normal(size=v.shape)).astype(np.float32) for k, v in params.items()}
        for scale in (10.0, 0.01, 1.0, 0.1, 3.0)
    ]
    return params, grads


@pytest.mark.parametrize(("weight_decay", "clip_norm"), [(0.0, 1.0), (0.01, 1.0), (0.1, 1e9)])
def test_five_steps_as_torch(weight_decay, clip_norm):
    params, grads = trees()
    optimizer_settings = settings(weight_decay=weight_decay, clip_norm=clip_norm, schedule="linear", warmup_steps=2)
    tx = optimizer.make_optimizer(optimizer_settings, dict.fromkeys(params, True))
    ours = jax.tree.map(jnp.asarray, params)
    state = tx.init(ours)
    theirs = {k: torch.nn.Parameter(torch.tensor(v)) for k, v in params.items()}
    adam = torch.optim.AdamW(theirs.values(), betas=(0.9, 0.95), eps=1e-5, weight_decay=weight_decay)
    for step, grad in enumerate(grads):
        updates, state = tx.update(jax.tree.map(jnp.asarray, grad), state, ours)
        ours = optax.apply_updates(ours, updates)
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(grad[name])
        torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        adam.param_groups[0]["lr"] = float(optimizer_settings.learning_rate_at(step))
        adam.step()
        for name, parameter in theirs.items():
            np.testing.assert_allclose(ours[name], parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_frozen_leaves_are_untouched_and_have_no_moments():
    params, grads = trees()
    tx = optimizer.make_optimizer(settings(weight_decay=0.5), {"kernel": True, "scale": False})
    state = tx.init(params)
    ours = jax.tree.map(jnp.asarray, params)
    for grad in grads:
        updates, state = tx.update(grad, state, ours)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_array_equal(ours["scale"], params["scale"])
    assert np.all(np.asarray(ours["kernel"]) != params["kernel"])
    assert params["scale"].shape not in {x.shape for x in jax.tree.leaves(state)}


def test_bfloat16_parameters_have_float32_moments():
    params, grads = trees()
    half, grad = (jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), t) for t in (params, grads[0]))
    tx = optimizer.make_optimizer(settings(), dict.fromkeys(params, True))
    state = tx.init(half)
    updates, state = tx.update(grad, state, half)
    floats = [x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert floats == [jnp.float32] * 4
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
    assert {p.dtype for p in jax.tree.leaves(optax.apply_updates(half, updates))} == {jnp.dtype("bfloat16")}
