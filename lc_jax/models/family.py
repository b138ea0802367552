"""Keys of config.json and names of tensors that Llama's descendants share; a family's file says what differs.

Families take from transformers which keys they read and what a missing one means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lc_jax.models.config import ACTIVATIONS, Config, LayerKind
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.rope import Rope, read_rope

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
FULL, SLIDING = "full_attention", "sliding_attention"

# Parameter path -> Hugging Face key; "{}" is the layer. Kernels are [in, out] here and [out, in] there.
KEYS = {
    "embedding": "model.embed_tokens.weight",
    "layers.attention_norm.scale": "model.layers.{}.input_layernorm.weight",
    **{
        f"layers.{name}.{ours}": f"model.layers.{{}}.{module}.{name}_proj.{theirs}"
        for module, names in (("self_attn", ATTENTION), ("mlp", MLP))
        for name in names
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    },
    "layers.mlp_norm.scale": "model.layers.{}.post_attention_layernorm.weight",
    "norm.scale": "model.norm.weight",
    "head.kernel": "lm_head.weight",
}
QK_NORM_KEYS = {f"layers.{name}.scale": f"model.layers.{{}}.self_attn.{name}.weight" for name in ("q_norm", "k_norm")}

# config.json of a model for tests, without what is the family's own.
TINY: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def decoder(file: ConfigFile, *, activation_key: str = "hidden_act", head_dim: int | None = None) -> dict[str, Any]:
    """Returns the fields of `Config` that these families share; `kinds` and what a family has of its own are added.

    Args:
      head_dim: where config.json has none; default hidden_size / num_attention_heads.

    Raises:
      ValueError: the config asks for something that is not implemented; the message names the key.
    """
    activation = file.text(activation_key, "silu" if activation_key == "hidden_act" else "gelu_pytorch_tanh")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"config.json: {activation_key}={activation!r} is not implemented, only {sorted(ACTIVATIONS)}."
        )
    heads = file.integer("num_attention_heads")
    has_size = file.raw.get("head_dim") is not None or head_dim is not None
    size = file.integer("head_dim", head_dim) if has_size else file.head_size()
    kv_heads = file.integer("num_key_value_heads", heads)
    if heads % kv_heads or size % 2:
        raise ValueError(
            f"config.json: num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}, and "
            f"head_dim {size} even."
        )
    return {
        "num_kv_heads": kv_heads,
        "head_dim": size,
        "layer_norm": False,
        "norm_eps": file.number("rms_norm_eps", 1e-6),
        "fused_qkv": False,
        "rotary_dim": size,
        "gated_mlp": True,
        "activation": activation,
        "parallel_residual": False,
    }


def to_hf(config: Config) -> dict[str, Any]:
    """Returns the keys of config.json for what `decoder` reads."""
    return {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.activation,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": config.rope.to_hf() or None,
    }


def refuse(file: ConfigFile, *keys: str) -> None:
    """Refuses keys by which a config asks for what is not implemented: with another value than null, false or 0.

    Raises:
      ValueError: names the key and its value.
    """
    for key in keys:
        value = file.raw.get(key)
        if value and not (key == "partial_rotary_factor" and value == 1):
            raise ValueError(f"config.json: {key}={value!r} is not implemented for this family.")


# --- layers of several kinds ---


def optional_integer(file: ConfigFile, key: str, default: int | None) -> int | None:
    """Returns a whole number, `default` where the key is missing, and None where it is null."""
    return file.integer(key) if file.raw.get(key) is not None else (None if key in file.raw else default)


def optional_number(file: ConfigFile, key: str, default: float | None) -> float | None:
    """Returns a number, `default` where the key is missing, and None where it is null."""
    return file.number(key) if file.raw.get(key) is not None else (None if key in file.raw else default)


def layer_types(file: ConfigFile, default: Sequence[str]) -> list[str]:
    """Returns FULL or SLIDING for each layer, from `layer_types` or `default`.

    Raises:
      ValueError: another type, or not as many types as layers.
    """
    types = file.raw.get("layer_types") or list(default)
    if not isinstance(types, list) or len(types) != file.integer("num_hidden_layers"):
        raise ValueError(f"config.json: layer_types must name one type for each layer, not {types!r}.")
    others = [kind for kind in types if kind not in (FULL, SLIDING)]
    if others:
        raise ValueError(f"config.json: layer_types: {others[0]!r} is not implemented, only {FULL!r} and {SLIDING!r}.")
    return types


def windowed(types: Sequence[str], window: int | None, ropes: dict[str, Rope]) -> dict[str, Any]:
    """Returns the fields `kinds` and `kind_of_layer` for layers of these types.

    Args:
      window: of the SLIDING ones.
      ropes: by type.

    Raises:
      ValueError: layers are SLIDING without a window.
    """
    if SLIDING in types and window is None:
        raise ValueError(f"config.json: sliding_window is missing, but layer_types has {SLIDING!r}.")
    return by_layer([LayerKind(ropes[kind], window if kind == SLIDING else None) for kind in types])


def ropes_by_type(file: ConfigFile, theta: float, local_theta: float) -> dict[str, Rope]:
    """Returns the rope of FULL and of SLIDING layers, from `rope_parameters` by type or `rope_scaling` of FULL ones.

    Args:
      theta, local_theta: bases where `rope_parameters` has none.
    """
    groups = ConfigFile(file.group("rope_parameters"))
    others = sorted(str(key) for key in groups.raw if key not in (FULL, SLIDING))
    if others:
        raise ValueError(f"config.json: rope_parameters must be by {FULL!r} and {SLIDING!r}; {others[0]!r} is another.")
    full = file.group("rope_scaling") | groups.group(FULL)
    length = file.integer("max_position_embeddings", 2048)
    return {
        FULL: read_rope(ConfigFile(full), theta, length),
        SLIDING: read_rope(ConfigFile(groups.group(SLIDING)), local_theta, length),
    }


def ropes_to_hf(config: Config) -> dict[str, Any]:
    """Returns `rope_parameters` by type, and what older versions of transformers read, of config.json."""
    ropes = {SLIDING if kind.window else FULL: kind.rope for kind in config.kinds if kind.rope is not None}
    groups = {key: {"rope_type": "default", "rope_theta": rope.theta} | rope.to_hf() for key, rope in ropes.items()}
    full = ropes.get(FULL, config.rope)
    return {"rope_parameters": groups, "rope_theta": full.theta, "rope_scaling": full.to_hf() or None}


def by_layer(layers: Sequence[LayerKind]) -> dict[str, Any]:
    """Returns the fields `kinds` and `kind_of_layer`."""
    kinds = list(dict.fromkeys(layers))
    return {"kinds": tuple(kinds), "kind_of_layer": tuple(map(kinds.index, layers)) if len(kinds) > 1 else ()}


def windows_to_hf(config: Config) -> dict[str, Any]:
    """Returns `layer_types` and `sliding_window` of config.json."""
    windows = [kind.window for kind in config.layers]
    return {
        "layer_types": [FULL if window is None else SLIDING for window in windows],
        "sliding_window": next(filter(None, windows), None),
    }
