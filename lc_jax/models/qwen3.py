"""Qwen 3: Llama with a norm of each query and key head. Every Qwen3ForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family, qwen2
from lc_jax.models.config import Config
from lc_jax.models.config_file import ConfigFile

MODEL_TYPE = "qwen3"
ARCHITECTURE = "Qwen3ForCausalLM"
KEYS = family.KEYS | family.QK_NORM_KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    family.refuse(file, "mlp_bias", "partial_rotary_factor")
    biases = family.ATTENTION if file.flag("attention_bias", False) else ()
    return family.decoder(file, head_dim=128) | qwen2.layers(file) | {"biases": biases, "qk_norm": "head"}


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    return qwen2.to_hf(config) | {"attention_bias": "q" in config.biases}


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {"tiny-qwen3": family.TINY | {"head_dim": 16}}
