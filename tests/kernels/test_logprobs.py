"""token_logprobs against log_softmax written out: values, gradients of both outputs, chunks of odd lengths, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.kernels import logprobs


def plain(hidden, head, targets, temperature):
    """The same two outputs from the whole array of logits."""
    logits = (hidden @ head).astype(jnp.float32) / temperature
    table = jax.nn.log_softmax(logits, axis=-1)
    return jnp.take_along_axis(table, targets[..., None], axis=-1)[..., 0], -jnp.sum(jnp.exp(table) * table, axis=-1)


def inputs(batch=3, length=13, hidden=8, vocab=31):
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (batch, length, hidden)),
        jax.random.normal(keys[1], (hidden, vocab)),
        jax.random.randint(keys[2], (batch, length), 0, vocab),
    )


@pytest.fixture(params=[1, 3, 7, 10, 39, 1000])
def chunk_tokens(request, monkeypatch):
    """Chunks of one token a row, of lengths that do not divide 13, of everything."""
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS", request.param)
    return request.param


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_values(chunk_tokens, temperature):
    hidden, head, targets = inputs()
    actual = logprobs.token_logprobs(hidden, head, targets, jnp.float32(temperature))
    for a, b in zip(actual, plain(hidden, head, targets, temperature), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_gradients_of_both_outputs(chunk_tokens):
    hidden, head, targets = inputs()
    weights = jax.random.normal(jax.random.key(1), (2, *targets.shape))  # so that no position can hide behind another

    def total(function, hidden, head, temperature):
        first, second = function(hidden, head, targets, temperature)
        return jnp.sum(weights[0] * first + weights[1] * second)

    grads = [
        jax.grad(total, argnums=(1, 2, 3))(function, hidden, head, jnp.float32(0.7))
        for function in (logprobs.token_logprobs, plain)
    ]
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_padding_of_the_last_chunk_adds_nothing(monkeypatch):
    """With zero hidden states the padded positions would have entropy log V if they were let through."""
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS", 4)
    hidden, head, targets = jnp.zeros((1, 5, 4)), jnp.ones((4, 8)), jnp.zeros((1, 5), jnp.int32)
    chosen, entropies = logprobs.token_logprobs(hidden, head, targets, jnp.float32(1.0))
    assert chosen.shape == entropies.shape == (1, 5)
    np.testing.assert_allclose(chosen, -np.log(8), rtol=1e-6)
    np.testing.assert_allclose(entropies, np.log(8), rtol=1e-6)


def test_certain_and_impossible_tokens_are_finite():
    head = jnp.array([[200.0, -200.0, 0.0]])
    chosen, entropies = logprobs.token_logprobs(jnp.ones((1, 2, 1)), head, jnp.array([[0, 1]]), jnp.float32(1.0))
    np.testing.assert_allclose(chosen, [[0.0, -400.0]], atol=1e-4)
    np.testing.assert_allclose(entropies, 0.0, atol=1e-4)


def test_bfloat16_inputs_accumulate_in_float32():
    hidden, head, targets = (x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x for x in inputs())
    actual = logprobs.token_logprobs(hidden, head, targets, jnp.float32(1.0))
    expected = plain(hidden.astype(jnp.float32), head.astype(jnp.float32), targets, 1.0)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradient", [False, True])
def test_memory_is_far_below_all_logits(monkeypatch, gradient):
    batch, length, vocab = 4, 256, 4096
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS", 64)
    arguments = inputs(batch, length, 8, vocab)

    def total(hidden, head, targets):
        return sum(x.sum() for x in logprobs.token_logprobs(hidden, head, targets, jnp.float32(1.0)))

    function = jax.grad(total, argnums=(0, 1)) if gradient else total
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes < batch * length * vocab * 4 / 3
