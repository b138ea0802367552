"""Granite 3: Llama with factors of embeddings, scores, residual branches and logits. GraniteForCausalLM."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "granite"
ARCHITECTURE = "GraniteForCausalLM"
KEYS = family.KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    family.refuse(file, "partial_rotary_factor", "layer_types")
    attention, mlp = file.flag("attention_bias", False), file.flag("mlp_bias", False)
    return family.decoder(file) | {
        "kinds": (LayerKind(rope_settings(file, 10000.0)),),
        "biases": (family.ATTENTION if attention else ()) + (family.MLP if mlp else ()),
        "embedding_scale": file.number("embedding_multiplier", 1.0),
        "query_scale": file.number("attention_multiplier", 1.0),
        "residual_scale": file.number("residual_multiplier", 1.0),
        "logit_divisor": file.number("logits_scaling", 1.0),
    }


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    return family.to_hf(config) | {
        "attention_bias": "q" in config.biases,
        "mlp_bias": "up" in config.biases,
        "embedding_multiplier": config.embedding_scale,
        "attention_multiplier": config.score_scaling.factor,
        "residual_multiplier": config.residual_scale,
        "logits_scaling": config.logit_divisor,
    }


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny-granite": family.TINY
    | {"embedding_multiplier": 12.0, "attention_multiplier": 0.25, "residual_multiplier": 0.22, "logits_scaling": 8.0}
}
