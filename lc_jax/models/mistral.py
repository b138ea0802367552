"""Mistral: Llama without biases, with a window in version 0.1. Every MistralForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "mistral"
ARCHITECTURE = "MistralForCausalLM"
KEYS = family.KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    family.refuse(file, "attention_bias", "mlp_bias", "partial_rotary_factor", "layer_types")
    window = family.optional_integer(file, "sliding_window", 4096)
    return family.decoder(file) | {"kinds": (LayerKind(rope_settings(file, 10000.0), window),)}


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    return family.to_hf(config) | {"sliding_window": config.kinds[0].window}


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {"tiny-mistral": family.TINY | {"sliding_window": 5}}
