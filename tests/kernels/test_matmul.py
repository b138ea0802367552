"""Matrix products with their gradients, in bfloat16 and float32, by value."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.kernels.matmul import MANY_ROWS, matmul, matmul_by_columns, product, product_by_columns, transposed_product

CPU_INFO = Path("/proc/cpuinfo")
HAS_AMX = CPU_INFO.is_file() and "amx_bf16" in CPU_INFO.read_text()

X = jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], jnp.bfloat16)
KERNEL = jnp.asarray([[1.0, 0.0], [2.0, 1.0], [0.0, -1.0]], jnp.bfloat16)
BY_OUT = jnp.asarray([[1.0, 10.0], [100.0, 0.0]], jnp.bfloat16)


@pytest.fixture(params=["cpu", "gpu"])
def platform(request, monkeypatch):
    """Selects the form for a platform; both can be computed here."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


def test_the_product_and_both_gradients_of_small_matrices(platform):
    out, backward = jax.vjp(matmul, X, KERNEL)
    by_x, by_kernel = backward(BY_OUT)
    assert out.tolist() == [[5, -1], [14, -1]]
    assert by_x.tolist() == [[1, 12, -10], [100, 200, 0]]
    assert by_kernel.tolist() == [[400, 10], [502, 20], [604, 30]]  # of 401 and 603, which are no bfloat16 numbers
    by_columns = matmul_by_columns(X, KERNEL.T)
    assert by_columns.tolist() == out.tolist()
    assert {by_columns.dtype, out.dtype, by_x.dtype, by_kernel.dtype} == {jnp.dtype(jnp.bfloat16)}


def test_products_with_a_float32_result_are_not_rounded(platform):
    by_kernel = transposed_product(X, BY_OUT)
    assert by_kernel.dtype == jnp.float32
    assert by_kernel.tolist() == [[401, 10], [502, 20], [603, 30]]
    assert product(X, KERNEL).tolist() == [[5, -1], [14, -1]]
    assert product(BY_OUT, KERNEL.T).tolist() == [[1, 12, -10], [100, 200, 0]]
    by_columns = product_by_columns(jnp.asarray([[1.0, 256.0]], jnp.bfloat16), jnp.ones((3, 2), jnp.bfloat16))
    assert by_columns.dtype == jnp.float32
    assert by_columns.tolist() == [[257, 257, 257]]  # no bfloat16 number
    many = jnp.ones((MANY_ROWS, 2)).at[-1].set(3.0)  # in the other form
    assert product_by_columns(many, jnp.asarray([[1.0, 2.0]]))[-2:].tolist() == [[3], [9]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_large_products_are_those_of_float64_to_rounding(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, by_out = (
        jax.random.normal(key, shape).astype(dtype)
        for key, shape in zip(keys, [(130, 96), (96, 72), (130, 72)], strict=True)
    )
    out, backward = jax.jit(lambda x, kernel: jax.vjp(matmul, x, kernel))(x, kernel)
    exact = [np.asarray(y, np.float64) for y in (x, kernel, by_out)]
    expected = (exact[0] @ exact[1], exact[2] @ exact[1].T, exact[0].T @ exact[2])
    # One rounding of the result: half a unit in the last place, and the order of a sum in float32.
    rtol = 2**-8 if dtype == jnp.bfloat16 else 1e-6
    for value, right in zip((out, *jax.jit(backward)(by_out)), expected, strict=True):
        np.testing.assert_allclose(np.asarray(value, np.float64), right, rtol=rtol, atol=1e-4)


def test_all_products_on_a_cpu_have_a_float32_result():
    """XLA's CPU compiler computes those with a bfloat16 result in float32, on every processor."""
    text = str(jax.make_jaxpr(lambda *operands: jax.vjp(matmul, *operands[:2])[1](operands[2]))(X, KERNEL, BY_OUT))
    text += str(jax.make_jaxpr(matmul)(X, KERNEL))
    assert text.count("preferred_element_type=float32") == text.count("= dot_general") == 4


@pytest.mark.skipif(not HAS_AMX, reason="which products XLA computes in bfloat16 depends on the processor")
@pytest.mark.parametrize("argument", ["product", 0, 1])
def test_products_and_gradients_are_compiled_without_a_conversion_of_their_operands(argument):
    shapes = [(64, 96), (96, 72), (64, 72)]

    def compute(x, kernel, by_out):
        return matmul(x, kernel) if argument == "product" else jax.vjp(matmul, x, kernel)[1](by_out)[argument]

    text = jax.jit(compute).lower(*(jnp.ones(shape, jnp.bfloat16) for shape in shapes)).compile().as_text()
    assert " dot(" in text
    assert not re.search(r"f32\[[\d,]*\]\S* convert\(", text)
