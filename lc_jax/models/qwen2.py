"""Qwen 2 and 2.5: Llama with biases of queries, keys and values. Every Qwen2ForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "qwen2"
ARCHITECTURE = "Qwen2ForCausalLM"
KEYS = family.KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    family.refuse(file, "mlp_bias", "partial_rotary_factor", "use_mrope")
    return family.decoder(file) | layers(file) | {"biases": ("q", "k", "v")}


def layers(file: ConfigFile) -> dict[str, Any]:
    """Returns the fields of layers, of which those from number `max_window_layers` on may have a window."""
    count, window = file.integer("num_hidden_layers"), None
    if file.flag("use_sliding_window", False):
        window = family.optional_integer(file, "sliding_window", 4096)
    is_full = window is None or file.raw.get("layer_types")
    first = count if is_full else file.integer("max_window_layers", 28)
    types = [family.FULL if i < first else family.SLIDING for i in range(count)]
    rope = rope_settings(file, 10000.0)
    return family.windowed(family.layer_types(file, types), window, {family.FULL: rope, family.SLIDING: rope})


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    windows = family.windows_to_hf(config)
    types = windows["layer_types"]
    return (
        family.to_hf(config)
        | windows
        | {
            "use_sliding_window": windows["sliding_window"] is not None,
            "max_window_layers": types.index(family.SLIDING) if family.SLIDING in types else len(types),
        }
    )


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny-qwen2": family.TINY | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
}
