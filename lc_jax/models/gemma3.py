"""Gemma 3, text alone: Gemma 2 with norms of heads, without softcaps, local layers of another base.

Every Gemma3ForCausalLM config. Models with a vision tower (model_type "gemma3") are not read.
"""

from __future__ import annotations

from typing import Any

from lc_jax.models import family, gemma2
from lc_jax.models.config import Config
from lc_jax.models.config_file import ConfigFile

MODEL_TYPE = "gemma3_text"
ARCHITECTURE = "Gemma3ForCausalLM"
NORM_OFFSET = gemma2.NORM_OFFSET
KEYS = gemma2.KEYS | family.QK_NORM_KEYS


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    family.refuse(file, "attn_logit_softcapping")
    count, pattern = file.integer("num_hidden_layers"), file.integer("sliding_window_pattern", 6)
    types = family.layer_types(file, [family.SLIDING if (i + 1) % pattern else family.FULL for i in range(count)])
    window = family.optional_integer(file, "sliding_window", 4096)
    thetas = file.number("rope_theta", 1e6), file.number("rope_local_base_freq", 1e4)
    return (
        gemma2.block(file)
        | family.windowed(types, window, family.ropes_by_type(file, *thetas))
        | {"qk_norm": "head", "logit_softcap": family.optional_number(file, "final_logit_softcapping", None)}
    )


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    local = next((kind.rope.theta for kind in config.kinds if kind.window and kind.rope), 1e4)
    return gemma2.to_hf(config) | family.ropes_to_hf(config) | {"rope_local_base_freq": local}


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny-gemma3": family.TINY | {"head_dim": 16, "sliding_window": 5, "sliding_window_pattern": 2}
}
