"""The shape of a decoder: one record for all families. What differs between families is a field."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from lc_jax.kernels import dispatch
from lc_jax.kernels.attention import ScoreScaling
from lc_jax.models.rope import Rope
from lc_jax.preflight import NATURAL, POSITIVE, check_all, check_settings

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


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters: y = x W + (alpha / rank) x A B for each target, with W frozen (Hu et al. 2022, equation 3)."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = ()  # linear layers of a block: some of LINEAR; (): all that the block has
    int8: bool = False  # frozen matrices of the blocks are stored in 8 bits
    base: str = ""  # the checkpoint of the frozen parameters: an absolute path or a hub name; `hf.read` sets it
    base_rows: int = 0  # rows of its embedding; `hf.read` sets it

    @property
    def scale(self) -> float:
        """The factor of x A B."""
        return self.alpha / self.rank

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self | None:
        """Returns the adapters of `config.lora`; None where its rank is 0.

        Raises:
          ValueError: one line for each setting that is wrong, with its flag.
        """

        def dropout() -> None:
            if settings["dropout"] != 0:
                raise ValueError(
                    f"--config.lora.dropout={settings['dropout']}: dropout of adapters is not implemented; give 0."
                )

        def int8() -> None:
            if settings["int8"] and settings["rank"] == 0:
                raise ValueError("--config.lora.int8 stores frozen matrices in 8 bits: give --config.lora.rank too.")

        check_all(lambda: check_settings("lora", settings, rank=NATURAL, alpha=POSITIVE), dropout, int8)
        targets = tuple(dict.fromkeys(name.strip() for name in settings["targets"].split(",") if name.strip()))
        if not settings["rank"]:
            return None
        return cls(settings["rank"], settings["alpha"], targets, settings["int8"])


def training_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `Config` that a trained model has from the settings of a task: precision and adapters.

    Raises:
      ValueError: as `Lora.of`.
    """
    return {**settings["precision"], "lora": Lora.of(settings["lora"]) if "lora" in settings else None}


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
    logit_divisor: float = 1.0  # what logits are divided by, before the softcap
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
    residual_scale: float = 1.0  # factor of the outputs of attention and of the MLP, before they are added
    biases: tuple[str, ...] = ()  # linear layers of a block that have one: some of LINEAR
    # How it is computed
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"  # "none", "full" (save block inputs only) or "dots" (outputs of products too; float32 on CPUs)
    kernels: str = "auto"  # kernels/dispatch.py
    lora: Lora | None = None  # adapters, which are trained in place of all parameters

    def __post_init__(self) -> None:
        names = dict(param_dtype=DTYPES, compute_dtype=DTYPES, remat=("none", *REMAT))
        check_all(
            lambda: check_settings("precision", self, **names),
            lambda: check_settings("", self, kernels=dispatch.KERNELS, qk_norm=QK_NORMS, norm_placement=PLACEMENTS),
            self._check_targets,
        )

    def _check_targets(self) -> None:
        unknown = sorted(set(self.lora.targets if self.lora else ()) - set(self.linear_layers))
        if unknown:
            raise ValueError(
                f"--config.lora.targets={','.join(unknown)}: the linear layers of {self.model_type} are "
                f"{','.join(self.linear_layers)}; give some of them, or nothing for all."
            )

    @property
    def linear_layers(self) -> tuple[str, ...]:
        """Names of the linear layers of a block."""
        attention = ("qkv",) if self.fused_qkv else ("q", "k", "v")
        return (*attention, "o", "gate", "up", "down") if self.gated_mlp else (*attention, "o", "up", "down")

    def has_adapter(self, name: str) -> bool:
        """Returns whether the linear layer `name` of a block has an adapter."""
        return self.lora is not None and name in (self.lora.targets or self.linear_layers)

    @property
    def backbone_dtype(self) -> str:
        """Dtype in which parameters are stored that are no adapters; frozen ones need no master copy."""
        return self.param_dtype if self.lora is None else self.compute_dtype

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
