"""Gemma 2: four norms of 1 + w, GELU, softcaps, scaled embeddings, every other layer windowed. Gemma2ForCausalLM."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "gemma2"
ARCHITECTURE = "Gemma2ForCausalLM"
NORM_OFFSET = 1.0  # norms are stored as w of 1 + w
KEYS = family.KEYS | {
    "layers.attention_out_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
    "layers.mlp_norm.scale": "model.layers.{}.pre_feedforward_layernorm.weight",
    "layers.mlp_out_norm.scale": "model.layers.{}.post_feedforward_layernorm.weight",
}


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    count, rope = file.integer("num_hidden_layers"), rope_settings(file, 10000.0)
    types = family.layer_types(file, [family.FULL if i % 2 else family.SLIDING for i in range(count)])
    window = family.optional_integer(file, "sliding_window", 4096)
    return (
        block(file)
        | family.windowed(types, window, {family.FULL: rope, family.SLIDING: rope})
        | {
            "score_softcap": family.optional_number(file, "attn_logit_softcapping", 50.0),
            "logit_softcap": family.optional_number(file, "final_logit_softcapping", 30.0),
        }
    )


def block(file: ConfigFile) -> dict[str, Any]:
    """Returns the fields of Gemma 2 and 3 but for the kinds of layers and softcaps."""
    family.refuse(file, "use_bidirectional_attention", "mlp_bias", "partial_rotary_factor")
    return family.decoder(file, activation_key="hidden_activation", head_dim=256) | {
        "tied_embeddings": file.flag("tie_word_embeddings", True),
        "embedding_scale": file.integer("hidden_size") ** 0.5,
        "norm_offset": NORM_OFFSET,
        "norm_placement": "both",
        "query_scale": file.number("query_pre_attn_scalar", 256) ** -0.5,
        "biases": family.ATTENTION if file.flag("attention_bias", False) else (),
    }


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    scalar = round(config.score_scaling.factor**-2, 6)
    return (
        family.to_hf(config)
        | family.windows_to_hf(config)
        | {
            "hidden_activation": config.activation,
            "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
            "attn_logit_softcapping": config.score_softcap,
            "final_logit_softcapping": config.logit_softcap,
            "attention_bias": "q" in config.biases,
        }
    )


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {"tiny-gemma2": family.TINY | {"head_dim": 16, "sliding_window": 5}}
