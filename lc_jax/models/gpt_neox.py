"""GPT-NeoX: LayerNorm, partly rotated heads, fused QKV. Every GPTNeoXForCausalLM config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lc_jax.models.config_file import ConfigFile
from lc_jax.models.layout import token_ids
from lc_jax.models.llama import rope_settings
from lc_jax.models.transformer import Attend, CausalLM, Config, Linear, Norm

MODEL_TYPE = "gpt_neox"
ARCHITECTURE = "GPTNeoXForCausalLM"
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_fast": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_python": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_python_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "gelu_accurate": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTNeoXConfig(Config):
    """Shape of a GPT-NeoX."""

    parallel_residual: bool = True
    attention_bias: bool = True
    activation: str = "gelu"

    def build(self, key: jax.Array) -> CausalLM:
        """A freshly initialised GPT-NeoX."""
        return CausalLM(self, key, Block, norm_bias=True)

    @classmethod
    def from_hf(cls, config: dict[str, Any], **precision: str) -> Self:
        """From the contents of config.json.

        Raises:
          ValueError: the config asks for something that is not implemented; the message names the key.
        """
        file = ConfigFile(config)
        activation = file.text("hidden_act", "gelu")
        if activation not in ACTIVATIONS:
            raise ValueError(f"config.json: hidden_act={activation!r} is not implemented, only {sorted(ACTIVATIONS)}.")
        theta, scaling = rope_settings(file, 10000.0)
        if scaling:
            raise ValueError("config.json: rope_scaling is not implemented for GPT-NeoX.")
        heads, head_dim = file.integer("num_attention_heads"), file.head_size()
        rope = ConfigFile(file.group("rope_parameters"))
        fraction = rope.number("partial_rotary_factor", file.number("rotary_pct", 0.25))
        if fraction > 1:
            raise ValueError(f"config.json: rotary_pct is a part of 1, not {fraction}.")
        return cls(
            vocab_size=file.integer("vocab_size"),
            hidden_size=file.integer("hidden_size"),
            intermediate_size=file.integer("intermediate_size"),
            num_layers=file.integer("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=head_dim,
            rotary_dim=int(head_dim * fraction),
            rope_theta=theta,
            norm_eps=file.number("layer_norm_eps", 1e-5),
            max_length=file.integer("max_position_embeddings", 2048),
            tied_embeddings=file.flag("tie_word_embeddings", False),
            bos_id=file.token_id("bos_token_id"),
            eos_ids=token_ids(config.get("eos_token_id"), "config.json: eos_token_id"),
            initializer_range=file.number("initializer_range", 0.02),
            parallel_residual=file.flag("use_parallel_residual", True),
            attention_bias=file.flag("attention_bias", True),
            activation=activation,
            **precision,
        )

    def to_hf(self) -> dict[str, Any]:
        """The contents of config.json."""
        return {
            "architectures": [ARCHITECTURE],
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "hidden_act": self.activation,
            "max_position_embeddings": self.max_length,
            "layer_norm_eps": self.norm_eps,
            "rotary_emb_base": self.rope_theta,
            "rotary_pct": self.rotary_dim / self.head_dim,
            "use_parallel_residual": self.parallel_residual,
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "tie_word_embeddings": self.tied_embeddings,
            "initializer_range": self.initializer_range,
            "bos_token_id": self.bos_id,
            "eos_token_id": list(self.eos_ids) if len(self.eos_ids) > 1 else next(iter(self.eos_ids), None),
        }


class Block(nnx.Module):
    """All layers' attention and MLP, stacked along the first dimension of each parameter."""

    def __init__(self, config: GPTNeoXConfig, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.config = config
        hidden, inner, count = config.hidden_size, config.intermediate_size, config.num_layers
        inputs: dict[str, Any] = {"config": config, "layers": count}
        self.attention_norm = Norm(config, bias=True, layers=count)
        # Head h owns the columns h*3K to (h+1)*3K: its query, key and value in turn.
        self.qkv = Linear(keys[0], (hidden, 3 * hidden), ("embed", "heads"), bias=config.attention_bias, **inputs)
        self.o = Linear(keys[1], (hidden, hidden), ("heads", "embed"), bias=config.attention_bias, **inputs)
        self.mlp_norm = Norm(config, bias=True, layers=count)
        self.up = Linear(keys[2], (hidden, inner), ("embed", "mlp"), bias=True, **inputs)
        self.down = Linear(keys[3], (inner, hidden), ("mlp", "embed"), bias=True, **inputs)

    def __call__(self, x: Float[Array, "B T D"], attend: Attend) -> Float[Array, "B T D"]:
        """One layer (the parameters' first dimension already taken off)."""
        config, shape = self.config, x.shape[:2]
        fused = self.qkv(self.attention_norm(x)).reshape(*shape, config.num_heads, 3 * config.head_dim)
        attended = self.o(attend(*jnp.split(fused, 3, axis=-1)).reshape(*shape, -1))
        middle = x if config.parallel_residual else x + attended
        inner = ACTIVATIONS[config.activation](self.up(self.mlp_norm(middle)))
        return x + attended + self.down(inner)


# Parameter path -> Hugging Face key; "{}" is the layer. Kernels are [in, out] here and [out, in] there.
KEYS = {
    "embedding": "gpt_neox.embed_in.weight",
    "layers.attention_norm.scale": "gpt_neox.layers.{}.input_layernorm.weight",
    "layers.attention_norm.bias": "gpt_neox.layers.{}.input_layernorm.bias",
    "layers.qkv.kernel": "gpt_neox.layers.{}.attention.query_key_value.weight",
    "layers.qkv.bias": "gpt_neox.layers.{}.attention.query_key_value.bias",
    "layers.o.kernel": "gpt_neox.layers.{}.attention.dense.weight",
    "layers.o.bias": "gpt_neox.layers.{}.attention.dense.bias",
    "layers.mlp_norm.scale": "gpt_neox.layers.{}.post_attention_layernorm.weight",
    "layers.mlp_norm.bias": "gpt_neox.layers.{}.post_attention_layernorm.bias",
    "layers.up.kernel": "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight",
    "layers.up.bias": "gpt_neox.layers.{}.mlp.dense_h_to_4h.bias",
    "layers.down.kernel": "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight",
    "layers.down.bias": "gpt_neox.layers.{}.mlp.dense_4h_to_h.bias",
    "norm.scale": "gpt_neox.final_layer_norm.weight",
    "norm.bias": "gpt_neox.final_layer_norm.bias",
    "head.kernel": "embed_out.weight",
}

_NEOX = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 2048, "layer_norm_eps": 1e-5}
# config.json of models that are known by name.
PRESETS: dict[str, dict[str, Any]] = {
    "redpajama-incite-3b": _NEOX
    | {
        "vocab_size": 50432,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rotary_pct": 1.0,
        "use_parallel_residual": False,
    },
    "tiny-gpt-neox": _NEOX
    | {
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
}
