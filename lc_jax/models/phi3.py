"""Phi 3 and 4: Llama with partial rotation and LongRoPE, and joint projections in files. Every Phi3ForCausalLM config.

Here each projection is a parameter of its own, so that the tensor axis divides all of them by heads.
"""

from __future__ import annotations

from typing import Any

from lc_jax.models import family
from lc_jax.models.config import Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import LongRope, rope_settings

MODEL_TYPE = "phi3"
ARCHITECTURE = "Phi3ForCausalLM"
_QKV, _GATE_UP = "model.layers.{}.self_attn.qkv_proj.weight", "model.layers.{}.mlp.gate_up_proj.weight"
# Tensors that hold the rows of several parameters, one after the other.
JOINT = {_QKV: tuple(f"layers.{n}.kernel" for n in "qkv"), _GATE_UP: ("layers.gate.kernel", "layers.up.kernel")}
KEYS = family.KEYS | {path: key for key, paths in JOINT.items() for path in paths}


def from_hf(file: ConfigFile) -> dict[str, Any]:
    """Returns the family's own fields of `Config` from config.json.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    family.refuse(file, "attention_bias", "mlp_bias", "layer_types")
    group = file.group("rope_scaling") or file.group("rope_parameters")
    kind = group.get("rope_type") or group.get("type") or "default"
    if kind in ("su", "yarn"):  # older names of the same
        group |= {"rope_type": "longrope"}
    elif kind not in ("default", "longrope"):
        raise ValueError(f"config.json: rope scaling of type {kind!r} is not implemented for Phi-3, only 'longrope'.")
    if file.raw.get("original_max_position_embeddings") is not None:
        group |= {"original_max_position_embeddings": file.integer("original_max_position_embeddings")}
    rope = rope_settings(ConfigFile({**file.raw, "rope_parameters": group, "rope_scaling": None}), 10000.0)
    fields = family.decoder(file)
    fraction = ConfigFile(group).number("partial_rotary_factor", file.number("partial_rotary_factor", 1.0))
    fields["rotary_dim"] = int(fields["head_dim"] * fraction)
    if fraction > 1 or fields["rotary_dim"] % 2:
        raise ValueError(f"config.json: partial_rotary_factor {fraction} of {fields['head_dim']} is no even part.")
    for name in ("short_factor", "long_factor"):
        factors = getattr(rope.scaling, name, ())
        if isinstance(rope.scaling, LongRope) and len(factors) != fields["rotary_dim"] // 2:
            raise ValueError(f"config.json: {name} has {len(factors)} numbers for {fields['rotary_dim'] // 2} planes.")
    window = family.optional_integer(file, "sliding_window", None)
    return fields | {"norm_eps": file.number("rms_norm_eps", 1e-5), "kinds": (LayerKind(rope, window),)}


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the family's own keys of config.json."""
    scaling = config.rope.to_hf()
    original = scaling.pop("original_max_position_embeddings", config.max_length)
    if scaling:  # by the key that transformers 4 reads; it checks that there is no other
        scaling = {key: value for key, value in scaling.items() if key != "rope_type"} | {"type": "longrope"}
    return family.to_hf(config) | {
        "sliding_window": config.kinds[0].window,
        "partial_rotary_factor": config.rotary_dim / config.head_dim,
        "original_max_position_embeddings": original,
        "rope_scaling": scaling or None,
        "pad_token_id": None,  # without the key transformers takes 32000, a row that a small vocabulary lacks
    }


# config.json of models that can be named without a folder.
PRESETS: dict[str, dict[str, Any]] = {"tiny-phi3": family.TINY | {"partial_rotary_factor": 0.75, "sliding_window": 5}}
