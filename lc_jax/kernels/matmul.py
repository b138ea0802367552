"""Matrix products in the forms that XLA's CPU compiler computes fast, above all in bfloat16.

Most bfloat16 products are converted to float32 there: those with a bfloat16 result, and those of two matrices of which
one is transposed. Those with a float32 result that are not transposed, or that have a batch dimension (of one, here),
use the processor's bfloat16 instructions, and are three to five times as fast with AMX (`python -m benchmarks.matmul`).
On other platforms the products are left to XLA.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MANY_ROWS = 256  # from which on x @ columns.T is the faster one in float32


def _is_bfloat16_on_cpu(dtype: jnp.dtype) -> bool:
    return jax.default_backend() == "cpu" and dtype == jnp.bfloat16


def product(x: Float[Array, "N I"], y: Float[Array, "I O"]) -> Float[Array, "N O"]:
    """Computes x @ y in the inputs' dtype with a float32 result; y may be a transposed matrix."""
    if _is_bfloat16_on_cpu(x.dtype):
        return jnp.einsum("bni,bio->bno", x[None], y[None], preferred_element_type=jnp.float32)[0]
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def transposed_product(x: Float[Array, "N I"], y: Float[Array, "N O"]) -> Float[Array, "I O"]:
    """Computes x.T @ y in the inputs' dtype with a float32 result."""
    if jax.default_backend() != "cpu":
        return product(x.T, y)
    # XLA's CPU compiler hands a product whose left operand is transposed to a routine about half as fast.
    return jax.lax.optimization_barrier(product(jax.lax.optimization_barrier(x.T), y))


def product_by_columns(x: Float[Array, "N I"], columns: Float[Array, "O I"]) -> Float[Array, "N O"]:
    """Computes x @ columns.T in the inputs' dtype with a float32 result.

    CPUs compute columns @ x.T. In bfloat16, with the 16 rows of a decoding step, that takes a third of the time of
    XLA's own product (`python -m benchmarks.matmul --full`); in float32 it is faster for few rows alone.
    """
    if jax.default_backend() != "cpu" or (x.dtype == jnp.float32 and len(x) >= MANY_ROWS):
        return product(x, columns.T)
    out = jnp.einsum("boi,bni->bon", columns[None], x[None], preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(out[0]).T  # else XLA exchanges the operands


def matmul_by_columns(x: Float[Array, "N I"], columns: Float[Array, "O I"]) -> Float[Array, "N O"]:
    """Computes x @ columns.T, both of one dtype, which the result has too; see `product_by_columns`."""
    return product_by_columns(x, columns).astype(x.dtype) if jax.default_backend() == "cpu" else x @ columns.T


def matmul(x: Float[Array, "N I"], kernel: Float[Array, "I O"]) -> Float[Array, "N O"]:
    """Computes x @ kernel, both of one dtype; the result and the gradients have it too."""
    return _bfloat16_matmul(x, kernel) if _is_bfloat16_on_cpu(x.dtype) else x @ kernel


@jax.custom_vjp
def _bfloat16_matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return product(x, kernel).astype(x.dtype)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _bfloat16_matmul(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], by_out: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return product(by_out, kernel.T).astype(x.dtype), transposed_product(x, by_out).astype(kernel.dtype)


_bfloat16_matmul.defvjp(_forward, _backward)
