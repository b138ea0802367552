"""SmolLM 3: Llama, of which every fourth layer does not encode positions. Every SmolLM3ForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import rope_settings

MODEL_TYPE = "smollm3"
ARCHITECTURE = "SmolLM3ForCausalLM"
KEYS = family.KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    family.refuse(file, "partial_rotary_factor")
    count = file.integer("num_hidden_layers")
    interval = file.integer("no_rope_layer_interval", 4)
    flags = file.raw.get("no_rope_layers") or [int((i + 1) % interval != 0) for i in range(count)]
    is_list = isinstance(flags, list) and len(flags) == count and all(flag in (0, 1) for flag in flags)
    if not is_list or not any(flags):
        raise ValueError(
            f"config.json: no_rope_layers must be 1 (rotary positions) or 0 for each layer, once 1 at least: {flags!r}."
        )
    window = family.optional_integer(file, "sliding_window", None) if file.flag("use_sliding_window", False) else None
    default = [family.SLIDING if window and not flag else family.FULL for flag in flags]
    rope, types = rope_settings(file, 2000000.0), family.layer_types(file, default)
    layers = [
        LayerKind(rope if flag else None, window if kind == family.SLIDING else None)
        for flag, kind in zip(flags, types, strict=True)
    ]
    attention, mlp = file.flag("attention_bias", False), file.flag("mlp_bias", False)
    return (
        family.decoder(file)
        | family.by_layer(layers)
        | {
            "biases": (family.ATTENTION if attention else ()) + (family.MLP if mlp else ()),
            "tied_embeddings": file.flag("tie_word_embeddings", True),
        }
    )


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    windows = family.windows_to_hf(config)
    return (
        family.to_hf(config)
        | windows
        | {
            "no_rope_layers": [int(kind.rope is not None) for kind in config.layers],
            "use_sliding_window": windows["sliding_window"] is not None,
            "attention_bias": "q" in config.biases,
            "mlp_bias": "up" in config.biases,
            "pad_token_id": None,  # without the key transformers takes 128004, a row that a small vocabulary lacks
        }
    )


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {"tiny-smollm3": family.TINY | {"no_rope_layer_interval": 2}}
