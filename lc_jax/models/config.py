"""The shape of a decoder: one record for all families. What differs between families is a field."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lc_jax.kernels import dispatch
from lc_jax.models.config_file import ConfigFile
from lc_jax.preflight import check_all, check_settings

DTYPES = ("float32", "bfloat16", "float16")
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
_GELU, _GELU_TANH = (functools.partial(jax.nn.gelu, approximate=approximate) for approximate in (False, True))
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {  # by transformers' names
    "gelu": _GELU,
    "gelu_python": _GELU,
    "gelu_new": _GELU_TANH,
    "gelu_fast": _GELU_TANH,
    "gelu_pytorch_tanh": _GELU_TANH,
    "gelu_python_tanh": _GELU_TANH,
    "gelu_accurate": _GELU_TANH,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of low rotary frequencies (config.json's names)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def apply(self, inverse: Float[Array, " R"]) -> Float[Array, " R"]:
        """Divides slow frequencies by `factor`, leaves fast ones as they are, and blends those between."""
        wavelength = 2 * math.pi / inverse
        turns = self.original_max_position_embeddings / wavelength
        blend = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        blend = jnp.clip(blend, 0.0, 1.0)
        return inverse * (blend + (1 - blend) / self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Shape and precision of a decoder."""

    model_type: str  # the family, as config.json names it: where its parameters are in a folder
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_length: int  # positions in training
    tied_embeddings: bool
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    initializer_range: float = 0.02  # standard deviation of fresh matrices
    # Norms
    layer_norm: bool  # LayerNorm with a bias, in place of RMSNorm
    norm_eps: float
    # Attention
    fused_qkv: bool  # one projection: head h has the columns h*3K to (h+1)*3K, its query, key and value in turn
    attention_bias: bool
    rotary_dim: int  # leading part of each head that is rotated
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    # MLP
    gated_mlp: bool  # down(activation(gate(x)) * up(x)), in place of down(activation(up(x)))
    mlp_bias: bool
    activation: str
    parallel_residual: bool  # the MLP reads the block's input, in place of what attention has added to
    # How it is computed
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"  # "none", "full" (save block inputs only) or "dots" (save matmul outputs too)
    kernels: str = "auto"  # kernels/dispatch.py

    def __post_init__(self) -> None:
        names = dict(param_dtype=DTYPES, compute_dtype=DTYPES, remat=("none", *REMAT))
        check_all(
            lambda: check_settings("precision", self, **names),
            lambda: check_settings("", self, kernels=dispatch.KERNELS),
        )

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of activations and matmuls."""
        return jnp.dtype(self.compute_dtype)

    def inverse_frequencies(self) -> Float[Array, " R"]:
        """Returns the rotary angle per position of each of rotary_dim / 2 planes, radians."""
        exponents = jnp.arange(0, self.rotary_dim, 2, dtype=jnp.float32) / self.rotary_dim
        inverse = 1.0 / self.rope_theta**exponents
        return inverse if self.rope_scaling is None else self.rope_scaling.apply(inverse)


def rope_settings(file: ConfigFile, default_theta: float) -> tuple[float, RopeScaling | None]:
    """Returns rotary base and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.

    Raises:
      ValueError: another type of scaling than Llama 3's, or one of its numbers is missing.
    """
    rope = ConfigFile(file.group("rope_parameters") or file.group("rope_scaling"))
    old = file.number("rotary_emb_base", default_theta)
    theta = rope.number("rope_theta", file.number("rope_theta", old))
    kind = rope.raw.get("rope_type") or rope.raw.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(f"config.json: rope scaling of type {kind!r} is not implemented, only 'llama3'.")
    names = [field.name for field in dataclasses.fields(RopeScaling)]
    numbers: dict[str, Any] = {name: rope.number(name) for name in names}
    return theta, RopeScaling(**(numbers | {names[-1]: rope.integer(names[-1])}))
