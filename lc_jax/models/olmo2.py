"""OLMo 2: norms after attention and MLP, and of all queries and keys of a token. Every Olmo2ForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "olmo2"
ARCHITECTURE = "Olmo2ForCausalLM"
KEYS = (
    family.KEYS
    | family.QK_NORM_KEYS
    | {
        "layers.attention_out_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
        "layers.mlp_out_norm.scale": "model.layers.{}.post_feedforward_layernorm.weight",
    }
)


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    return block(file) | {"kinds": (LayerKind(rope_settings(file, 10000.0)),)}


def block(file: ConfigFile) -> dict[str, Any]:
    """Returns the fields of OLMo 2 and 3 but for the kinds of layers."""
    family.refuse(file, "mlp_bias", "partial_rotary_factor", "clip_qkv")
    return family.decoder(file) | {
        "norm_eps": file.number("rms_norm_eps", 1e-5),
        "norm_placement": "after",
        "qk_norm": "all",
        "biases": family.ATTENTION if file.flag("attention_bias", False) else (),
    }


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    return family.to_hf(config) | {"attention_bias": "q" in config.biases}


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {"tiny-olmo2": family.TINY}
