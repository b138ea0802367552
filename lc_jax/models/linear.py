"""The linear layer of all decoders, with its low-rank adapter."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lc_jax.kernels.matmul import matmul, matmul_by_columns
from lc_jax.models.config import Config

ADAPTERS = ("lora_a", "lora_b")  # names of an adapter's parameters


def quantise(matrix: Any) -> tuple[Any, Any]:
    """Returns a matrix [... I O] (of numpy or JAX) as int8 with the float32 scale [... O] of each column.

    The largest number of a column becomes 127 or -127, so that no number is off by more than half a scale.
    """
    largest = abs(matrix).max(axis=-2).astype("float32")
    scale = (largest + (largest == 0)) / 127
    return (matrix / scale[..., None, :]).round().astype("int8"), scale


class Linear(nnx.Module):
    """x @ kernel + bias, one per layer (leading dimension) where `layers` is not 0.

    With an adapter, scale * (x @ lora_a) @ lora_b is added. At first lora_b is zero, and lora_a uniform between
    -1 / sqrt(I) and 1 / sqrt(I), as in PEFT. A frozen kernel may be stored in 8 bits: it is kernel * kernel_scale.
    """

    is_transposed = False  # the kernel is [O, I], in the copies that are made for generation

    def __init__(
        self,
        key: jax.Array,
        shape: tuple[int, int],
        axes: tuple[str, str],
        config: Config,
        *,
        name: str = "",
        layers: int = 0,
    ) -> None:
        lead, names = ((layers,), ("layers",)) if layers else ((), ())
        values = config.initializer_range * jax.random.normal(key, (*lead, *shape), jnp.float32)
        out = axes[1] if axes[1] != "embed" else "norm"
        self.is_int8 = config.lora is not None and config.lora.int8 and name in config.linear_layers
        if self.is_int8:
            kernel, scale = quantise(values)
            self.kernel_scale = nnx.Param(scale, out_sharding=(*names, out))
        else:
            kernel = values.astype(config.backbone_dtype)
        self.kernel = nnx.Param(kernel, out_sharding=(*names, *axes))
        zeros = jnp.zeros((*lead, shape[1]), config.backbone_dtype)
        self.bias = nnx.Param(zeros, out_sharding=(*names, out)) if name in config.biases else None
        self.scale = 0.0
        if config.lora is not None and config.has_adapter(name):
            self.scale, rank, bound = config.lora.scale, config.lora.rank, 1 / math.sqrt(shape[0])
            a = jax.random.uniform(jax.random.fold_in(key, 1), (*lead, shape[0], rank), minval=-bound, maxval=bound)
            # Sharded as the kernel is: the rank is replicated.
            self.lora_a = nnx.Param(a.astype(config.param_dtype), out_sharding=(*names, axes[0], None))
            b = jnp.zeros((*lead, rank, shape[1]), config.param_dtype)
            self.lora_b = nnx.Param(b, out_sharding=(*names, None, axes[1]))

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        flat = x.reshape(-1, x.shape[-1])  # as one matrix: on CPUs the backward pass is much faster
        y = (matmul_by_columns if self.is_transposed else matmul)(flat, self.kernel[...].astype(x.dtype))
        if self.is_int8:
            y = y * self.kernel_scale[...].astype(x.dtype)
        if self.scale:
            inner = matmul(flat, self.lora_a[...].astype(x.dtype))
            y = y + self.scale * matmul(inner, self.lora_b[...].astype(x.dtype))
        y = y.reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)
