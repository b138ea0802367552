"""The decoder block of all families: norms, attention and MLP; what differs is a field of the config."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lc_jax.models.config import ACTIVATIONS, Config
from lc_jax.models.linear import Linear

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # q [B T H K], k, v [B T G K] -> [B T H K]


def multiply(x: jax.Array, factor: float) -> jax.Array:
    """Returns x times a factor, multiplied in float32; the dtype is that of x."""
    return x if factor == 1 else (x.astype(jnp.float32) * factor).astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm or LayerNorm; computed in float32, returned in the dtype of the input."""

    def __init__(self, config: Config, *, size: int = 0, layers: int = 0) -> None:
        lead, names = ((layers,), ("layers",)) if layers else ((), ())
        shape, axes = (*lead, size or config.hidden_size), (*names, "norm")
        self.eps, self.offset = config.norm_eps, config.norm_offset
        ones = jnp.full(shape, 1 - config.norm_offset, config.backbone_dtype)
        self.scale = nnx.Param(ones, out_sharding=axes)
        self.bias = nnx.Param(jnp.zeros(shape, config.backbone_dtype), out_sharding=axes) if config.layer_norm else None

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        y = x.astype(jnp.float32)
        if self.bias is not None:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...].astype(jnp.float32)
        y = y * (scale + self.offset if self.offset else scale)
        return (y if self.bias is None else y + self.bias[...].astype(jnp.float32)).astype(x.dtype)


class Block(nnx.Module):
    """Attention and MLP of all layers, stacked along the first dimension of each parameter."""

    def __init__(self, config: Config, key: jax.Array) -> None:
        self.config = config
        hidden, inner, count = config.hidden_size, config.intermediate_size, config.num_layers
        queries, pairs = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        names = config.linear_layers
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

        def linear(name: str, shape: tuple[int, int], axes: tuple[str, str]) -> Linear:
            return Linear(keys[name], shape, axes, config, name=name, layers=count)

        into_heads, into_mlp = ("embed", "heads"), ("embed", "mlp")
        if config.norm_placement != "after":
            self.attention_norm, self.mlp_norm = Norm(config, layers=count), Norm(config, layers=count)
        if config.norm_placement != "before":
            self.attention_out_norm, self.mlp_out_norm = Norm(config, layers=count), Norm(config, layers=count)
        if config.fused_qkv:
            self.qkv = linear("qkv", (hidden, queries + 2 * pairs), into_heads)
        else:
            self.q = linear("q", (hidden, queries), into_heads)
            self.k = linear("k", (hidden, pairs), into_heads)
            self.v = linear("v", (hidden, pairs), into_heads)
        if config.qk_norm != "none":
            sizes = (config.head_dim,) * 2 if config.qk_norm == "head" else (queries, pairs)
            self.q_norm, self.k_norm = (Norm(config, size=size, layers=count) for size in sizes)
        self.o = linear("o", (queries, hidden), ("heads", "embed"))
        if config.gated_mlp:
            self.gate = linear("gate", (hidden, inner), into_mlp)
        self.up = linear("up", (hidden, inner), into_mlp)
        self.down = linear("down", (inner, hidden), ("mlp", "embed"))

    def __call__(self, x: Float[Array, "B T D"], attend: Attend) -> Float[Array, "B T D"]:
        """Runs one layer (the first dimension of the parameters already taken off)."""
        config, shape = self.config, x.shape[:2]
        before, after = config.norm_placement != "after", config.norm_placement != "before"
        q, k, v = self._heads(self.attention_norm(x) if before else x)
        y = self.o(attend(q, k, v).reshape(*shape, -1))
        attended = x + multiply(self.attention_out_norm(y) if after else y, config.residual_scale)
        y = x if config.parallel_residual else attended
        y = self.mlp_norm(y) if before else y
        activation = ACTIVATIONS[config.activation]
        inner = activation(self.gate(y)) * self.up(y) if config.gated_mlp else activation(self.up(y))
        y = self.down(inner)
        return attended + multiply(self.mlp_out_norm(y) if after else y, config.residual_scale)

    def _heads(self, y: Float[Array, "B T D"]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries [B T H K], keys and values [B T G K], before their rotation."""
        config, shape = self.config, y.shape[:2]
        if config.fused_qkv:
            q, k, v = jnp.split(self.qkv(y).reshape(*shape, config.num_heads, 3 * config.head_dim), 3, axis=-1)
        else:
            q, k, v = self.q(y), self.k(y), self.v(y)
            if config.qk_norm == "all":
                q, k = self.q_norm(q), self.k_norm(k)
            q, k, v = (x.reshape(*shape, -1, config.head_dim) for x in (q, k, v))
        return (self.q_norm(q), self.k_norm(k), v) if config.qk_norm == "head" else (q, k, v)
