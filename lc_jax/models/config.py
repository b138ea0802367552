"""The shape of a decoder: one record for all families. What differs between families is a field."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lc_jax.kernels import dispatch
from lc_jax.kernels.attention import ScoreScaling
from lc_jax.models.rope import Rope
from lc_jax.preflight import check_all, check_settings

DTYPES = ("float32", "bfloat16", "float16")
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
QK_NORMS, PLACEMENTS = ("none", "head", "all"), ("before", "after", "both")
LINEAR = ("qkv", "q", "k", "v", "o", "gate", "up", "down")  # linear layers of a block
_GELU, GELU_TANH = (functools.partial(jax.nn.gelu, approximate=approximate) for approximate in (False, True))
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {  # by transformers' names
    "gelu": _GELU,
    "gelu_python": _GELU,
    "gelu_new": GELU_TANH,
    "gelu_fast": GELU_TANH,
    "gelu_pytorch_tanh": GELU_TANH,
    "gelu_python_tanh": GELU_TANH,
    "gelu_accurate": GELU_TANH,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """A kind of layers: their rope and their window."""

    rope: Rope | None  # how positions are encoded; None: not at all
    window: int | None = None  # tokens that a query sees, itself the last of them; None: all before it


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
    embedding_scale: float = 1.0  # factor of the embeddings, but not of a tied head
    logit_softcap: float | None = None  # c: logits are c tanh(logits / c)
    # Norms
    layer_norm: bool  # LayerNorm with a bias, in place of RMSNorm
    norm_eps: float
    norm_offset: float = 0.0  # what is added to the stored scales of norms
    norm_placement: str = "before"  # of attention and of the MLP: "before", "after" (before it is added) or "both"
    qk_norm: str = "none"  # norm of queries and keys: of each head ("head"), of all heads together ("all") or "none"
    # Attention
    fused_qkv: bool  # one projection: head h has the columns h*3K to (h+1)*3K, its query, key and value in turn
    rotary_dim: int  # leading part of each head that is rotated
    kinds: tuple[LayerKind, ...]
    kind_of_layer: tuple[int, ...] = ()  # index into `kinds` of each layer, where there are several
    query_scale: float | None = None  # factor of scores; None: head_dim ** -0.5
    score_softcap: float | None = None  # c: scores are c tanh(scores / c)
    # MLP
    gated_mlp: bool  # down(activation(gate(x)) * up(x)), in place of down(activation(up(x)))
    activation: str
    parallel_residual: bool  # the MLP reads the block's input, in place of what attention has added to
    biases: tuple[str, ...] = ()  # linear layers of a block that have one: some of LINEAR
    # How it is computed
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"  # "none", "full" (save block inputs only) or "dots" (save matmul outputs too)
    kernels: str = "auto"  # kernels/dispatch.py

    def __post_init__(self) -> None:
        names = dict(param_dtype=DTYPES, compute_dtype=DTYPES, remat=("none", *REMAT))
        check_all(
            lambda: check_settings("precision", self, **names),
            lambda: check_settings("", self, kernels=dispatch.KERNELS, qk_norm=QK_NORMS, norm_placement=PLACEMENTS),
        )

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of activations and matmuls."""
        return jnp.dtype(self.compute_dtype)

    @property
    def rope(self) -> Rope:
        """The rope of the first kind of layer that has one."""
        return next(kind.rope for kind in self.kinds if kind.rope is not None)

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """The kind of each layer."""
        return tuple(self.kinds[i] for i in self.kind_of_layer or (0,) * self.num_layers)

    @property
    def score_scaling(self) -> ScoreScaling:
        """The scaling of attention's scores."""
        return ScoreScaling(self.query_scale or self.head_dim**-0.5, self.score_softcap)

    def windows(self, length: int) -> tuple[int | None, ...] | None:
        """Returns the window of each kind of layer; None where none hides anything in rows of `length` tokens."""
        windows = tuple(kind.window for kind in self.kinds)
        return windows if any(window is not None and window < length for window in windows) else None
