"""Llama: RMSNorm, rotary positions, grouped-query attention, gated MLP. Every LlamaForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "llama"
ARCHITECTURE = "LlamaForCausalLM"
KEYS = family.KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    fields = family.decoder(file)
    if fields["activation"] not in ("silu", "swish"):
        raise ValueError(f"config.json: hidden_act={fields['activation']!r} is not implemented for Llama, only 'silu'.")
    if file.raw.get("use_sliding_window") is not False:
        family.refuse(file, "sliding_window")
    family.refuse(file, "partial_rotary_factor")
    attention, mlp = file.flag("attention_bias", False), file.flag("mlp_bias", False)
    return fields | {
        "kinds": (LayerKind(rope_settings(file, 10000.0)),),
        "activation": "silu",
        "biases": (family.ATTENTION if attention else ()) + (family.MLP if mlp else ()),
    }


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    return family.to_hf(config) | {"attention_bias": "q" in config.biases, "mlp_bias": "up" in config.biases}


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
