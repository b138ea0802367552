"""Llama: RMSNorm, rotary positions, grouped-query attention, gated MLP. Every LlamaForCausalLM config."""

from __future__ import annotations

import dataclasses
from typing import Any

from lc_jax.models.config import Config, rope_settings
from lc_jax.models.config_file import ConfigFile

MODEL_TYPE = "llama"
ARCHITECTURE = "LlamaForCausalLM"


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    activation = file.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ValueError(f"config.json: hidden_act={activation!r} is not implemented for Llama, only 'silu'.")
    if file.raw.get("sliding_window") and file.raw.get("use_sliding_window") is not False:
        raise ValueError("config.json: sliding_window is not implemented.")
    theta, scaling = rope_settings(file, 10000.0)
    heads = file.integer("num_attention_heads")
    head_dim = file.integer("head_dim") if file.raw.get("head_dim") else file.head_size()
    kv_heads = file.integer("num_key_value_heads", heads)
    if heads % kv_heads or head_dim % 2:
        raise ValueError(
            f"config.json: num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}, and "
            f"head_dim {head_dim} even."
        )
    return {
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "layer_norm": False,
        "norm_eps": file.number("rms_norm_eps", 1e-6),
        "fused_qkv": False,
        "attention_bias": file.flag("attention_bias", False),
        "rotary_dim": head_dim,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "gated_mlp": True,
        "mlp_bias": file.flag("mlp_bias", False),
        "activation": "silu",
        "parallel_residual": False,
    }


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    scaling = dataclasses.asdict(config.rope_scaling) | {"rope_type": "llama3"} if config.rope_scaling else None
    return {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
    }


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
# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {
    "llama-2-7b": _LLAMA_2
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "llama-2-13b": _LLAMA_2
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
    "tiny-llama": _LLAMA_2
    | {"vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}
