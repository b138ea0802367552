"""GPT-NeoX: LayerNorm, partly rotated heads, fused QKV. Every GPTNeoXForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models.config import ACTIVATIONS, Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "gpt_neox"
ARCHITECTURE = "GPTNeoXForCausalLM"


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    activation = file.text("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"config.json: hidden_act={activation!r} is not implemented, only {sorted(ACTIVATIONS)}.")
    rope_of_layers = rope_settings(file, 10000.0)
    if rope_of_layers.scaling:
        raise ValueError("config.json: rope_scaling is not implemented for GPT-NeoX.")
    head_dim = file.head_size()
    rope = ConfigFile(file.group("rope_parameters"))
    fraction = rope.number("partial_rotary_factor", file.number("rotary_pct", 0.25))
    if fraction > 1:
        raise ValueError(f"config.json: rotary_pct is a part of 1, not {fraction}.")
    return {
        "num_kv_heads": file.integer("num_attention_heads"),
        "head_dim": head_dim,
        "layer_norm": True,
        "norm_eps": file.number("layer_norm_eps", 1e-5),
        "fused_qkv": True,
        "rotary_dim": int(head_dim * fraction),
        "kinds": (LayerKind(rope_of_layers),),
        "gated_mlp": False,
        "biases": (("qkv", "o") if file.flag("attention_bias", True) else ()) + ("up", "down"),
        "activation": activation,
        "parallel_residual": file.flag("use_parallel_residual", True),
    }


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    return {
        "hidden_act": config.activation,
        "max_position_embeddings": config.max_length,
        "layer_norm_eps": config.norm_eps,
        "rotary_emb_base": config.rope.theta,
        "rotary_pct": config.rotary_dim / config.head_dim,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": "qkv" in config.biases,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }


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
# config.json of models that can be named without a folder.
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
