"""Llama: RMSNorm, rotary positions, grouped-query attention, gated MLP. Every LlamaForCausalLM config."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lc_jax.models.config_file import ConfigFile
from lc_jax.models.layout import token_ids
from lc_jax.models.transformer import Attend, CausalLM, Config, Linear, Norm

MODEL_TYPE = "llama"
ARCHITECTURE = "LlamaForCausalLM"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's stretching of low rotary frequencies (config.json's names)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def apply(self, inverse: Float[Array, " R"]) -> Float[Array, " R"]:
        """Divides slow frequencies by `factor`, keeps fast ones, blends those between."""
        wavelength = 2 * math.pi / inverse
        turns = self.original_max_position_embeddings / wavelength
        blend = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        blend = jnp.clip(blend, 0.0, 1.0)
        return inverse * (blend + (1 - blend) / self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(Config):
    """Shape of a Llama."""

    attention_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None

    def inverse_frequencies(self) -> Float[Array, " R"]:
        """With Llama 3's scaling, when configured."""
        inverse = super().inverse_frequencies()
        return inverse if self.rope_scaling is None else self.rope_scaling.apply(inverse)

    def build(self, key: jax.Array) -> CausalLM:
        """A freshly initialised Llama."""
        return CausalLM(self, key, Block, norm_bias=False)

    @classmethod
    def from_hf(cls, config: dict[str, Any], **precision: str) -> Self:
        """From the contents of config.json.

        Raises:
          ValueError: the config asks for something that is not implemented; the message names the key.
        """
        file = ConfigFile(config)
        activation = file.text("hidden_act", "silu")
        if activation not in ("silu", "swish"):
            raise ValueError(f"config.json: hidden_act={activation!r} is not implemented for Llama, only 'silu'.")
        if config.get("sliding_window") and config.get("use_sliding_window") is not False:
            raise ValueError("config.json: sliding_window is not implemented.")
        theta, scaling = rope_settings(file, 10000.0)
        heads = file.integer("num_attention_heads")
        head_dim = file.integer("head_dim") if config.get("head_dim") else file.head_size()
        kv_heads = file.integer("num_key_value_heads", heads)
        if heads % kv_heads or head_dim % 2:
            raise ValueError(
                f"config.json: num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}, and "
                f"head_dim {head_dim} even."
            )
        return cls(
            vocab_size=file.integer("vocab_size"),
            hidden_size=file.integer("hidden_size"),
            intermediate_size=file.integer("intermediate_size"),
            num_layers=file.integer("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            rotary_dim=head_dim,
            rope_theta=theta,
            norm_eps=file.number("rms_norm_eps", 1e-6),
            max_length=file.integer("max_position_embeddings", 2048),
            tied_embeddings=file.flag("tie_word_embeddings", False),
            bos_id=file.token_id("bos_token_id"),
            eos_ids=token_ids(config.get("eos_token_id"), "config.json: eos_token_id"),
            initializer_range=file.number("initializer_range", 0.02),
            attention_bias=file.flag("attention_bias", False),
            mlp_bias=file.flag("mlp_bias", False),
            rope_scaling=RopeScaling(**scaling) if scaling else None,
            **precision,
        )

    def to_hf(self) -> dict[str, Any]:
        """The contents of config.json."""
        scaling = dataclasses.asdict(self.rope_scaling) | {"rope_type": "llama3"} if self.rope_scaling else None
        return {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_length,
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": scaling,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "tie_word_embeddings": self.tied_embeddings,
            "initializer_range": self.initializer_range,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) if len(self.eos_ids) > 1 else next(iter(self.eos_ids), None),
        }


def rope_settings(file: ConfigFile, default_theta: float) -> tuple[float, dict[str, Any] | None]:
    """Rotary base and Llama 3 scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.

    Raises:
      ValueError: another type of scaling, or one of Llama 3's numbers is missing.
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
    scaling: dict[str, Any] = {name: rope.number(name) for name in names}
    return theta, scaling | {names[-1]: rope.integer(names[-1])}


class Block(nnx.Module):
    """All layers' attention and MLP, stacked along the first dimension of each parameter."""

    def __init__(self, config: LlamaConfig, key: jax.Array) -> None:
        keys = jax.random.split(key, 7)
        self.config = config
        hidden, inner, count = config.hidden_size, config.intermediate_size, config.num_layers
        queries, pairs = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim

        def linear(place: int, shape: tuple[int, int], axes: tuple[str, str], bias: bool) -> Linear:
            return Linear(keys[place], shape, axes, config, bias=bias, layers=count)

        self.attention_norm = Norm(config, bias=False, layers=count)
        self.q = linear(0, (hidden, queries), ("embed", "heads"), config.attention_bias)
        self.k = linear(1, (hidden, pairs), ("embed", "heads"), config.attention_bias)
        self.v = linear(2, (hidden, pairs), ("embed", "heads"), config.attention_bias)
        self.o = linear(3, (queries, hidden), ("heads", "embed"), config.attention_bias)
        self.mlp_norm = Norm(config, bias=False, layers=count)
        self.gate = linear(4, (hidden, inner), ("embed", "mlp"), config.mlp_bias)
        self.up = linear(5, (hidden, inner), ("embed", "mlp"), config.mlp_bias)
        self.down = linear(6, (inner, hidden), ("mlp", "embed"), config.mlp_bias)

    def __call__(self, x: Float[Array, "B T D"], attend: Attend) -> Float[Array, "B T D"]:
        """One layer (the parameters' first dimension already taken off)."""
        y, shape = self.attention_norm(x), x.shape[:2]
        q, k, v = (f(y).reshape(*shape, -1, self.config.head_dim) for f in (self.q, self.k, self.v))
        x = x + self.o(attend(q, k, v).reshape(*shape, -1))
        y = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(y)) * self.up(y))


# Parameter path -> Hugging Face key; "{}" is the layer. Kernels are [in, out] here and [out, in] there.
KEYS = {
    "embedding": "model.embed_tokens.weight",
    "layers.attention_norm.scale": "model.layers.{}.input_layernorm.weight",
    "layers.q.kernel": "model.layers.{}.self_attn.q_proj.weight",
    "layers.q.bias": "model.layers.{}.self_attn.q_proj.bias",
    "layers.k.kernel": "model.layers.{}.self_attn.k_proj.weight",
    "layers.k.bias": "model.layers.{}.self_attn.k_proj.bias",
    "layers.v.kernel": "model.layers.{}.self_attn.v_proj.weight",
    "layers.v.bias": "model.layers.{}.self_attn.v_proj.bias",
    "layers.o.kernel": "model.layers.{}.self_attn.o_proj.weight",
    "layers.o.bias": "model.layers.{}.self_attn.o_proj.bias",
    "layers.mlp_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers.gate.kernel": "model.layers.{}.mlp.gate_proj.weight",
    "layers.gate.bias": "model.layers.{}.mlp.gate_proj.bias",
    "layers.up.kernel": "model.layers.{}.mlp.up_proj.weight",
    "layers.up.bias": "model.layers.{}.mlp.up_proj.bias",
    "layers.down.kernel": "model.layers.{}.mlp.down_proj.weight",
    "layers.down.bias": "model.layers.{}.mlp.down_proj.bias",
    "norm.scale": "model.norm.weight",
    "head.kernel": "lm_head.weight",
}

_LLAMA_2 = {
    "vocab_size": 32000,
    "num_key_value_heads": None,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# config.json of models that are known by name.
PRESETS: dict[str, dict[str, Any]] = {
    "llama-2-7b": _LLAMA_2
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-2-13b": _LLAMA_2
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "tiny-llama": _LLAMA_2
    | {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}
