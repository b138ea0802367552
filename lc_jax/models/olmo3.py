"""OLMo 3: OLMo 2 with windows in three of four layers, whose ropes are not scaled. Every Olmo3ForCausalLM config."""

from __future__ import annotations

from typing import Any

from lc_jax.models import family, olmo2
from lc_jax.models.config import Config
from lc_jax.models.config_file import ConfigFile

MODEL_TYPE = "olmo3"
ARCHITECTURE = "Olmo3ForCausalLM"
KEYS = olmo2.KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    count = file.integer("num_hidden_layers")
    types = family.layer_types(file, [family.FULL if i % 4 == 3 else family.SLIDING for i in range(count)])
    window = family.optional_integer(file, "sliding_window", 4096)
    theta = file.number("rope_theta", 500000.0)
    return olmo2.block(file) | family.windowed(types, window, family.ropes_by_type(file, theta, theta))


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    return olmo2.to_hf(config) | family.windows_to_hf(config) | family.ropes_to_hf(config)


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {"tiny-olmo3": family.TINY | {"sliding_window": 5, "num_hidden_layers": 4}}
