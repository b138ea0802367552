"""The table of families, and models of them by config: as shapes only, freshly initialised, or by preset name."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
from flax import nnx

from lc_jax import parallel
from lc_jax.models import (
    gemma2,
    gemma3,
    gpt_neox,
    granite,
    llama,
    mistral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen3,
    smollm3,
)
from lc_jax.models.config import Config
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.heads import ScalarModel
from lc_jax.models.layout import token_ids
from lc_jax.models.transformer import CausalLM, Model

_MODULES = (gemma2, gemma3, gpt_neox, granite, llama, mistral, olmo2, olmo3, phi3, qwen2, qwen3, smollm3)
FAMILIES: dict[str, ModuleType] = {module.MODEL_TYPE: module for module in _MODULES}
# Keys of config.json by which models say that their MLPs are mixtures of experts.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")


def family_of(config: Config) -> ModuleType:
    """Returns the module of the family that `config` belongs to."""
    return FAMILIES[config.model_type]


def config_from_hf(raw: Mapping[str, Any], **precision: Any) -> Config:
    """Returns the config of a decoder from the contents of config.json, whose `model_type` is one of FAMILIES.

    Raises:
      ValueError: it asks for something that is not implemented; the message names the key.
    """
    file, family = ConfigFile(raw), FAMILIES[raw["model_type"]]
    for key in EXPERTS:
        if raw.get(key):
            raise ValueError(f"config.json: {key}={raw[key]!r}: mixtures of experts are not implemented.")
    fields: dict[str, Any] = {
        "model_type": family.MODEL_TYPE,
        "vocab_size": file.integer("vocab_size"),
        "hidden_size": file.integer("hidden_size"),
        "intermediate_size": file.integer("intermediate_size"),
        "num_layers": file.integer("num_hidden_layers"),
        "num_heads": file.integer("num_attention_heads"),
        "max_length": file.integer("max_position_embeddings", 2048),
        "tied_embeddings": file.flag("tie_word_embeddings", False),
        "bos_id": file.token_id("bos_token_id"),
        "eos_ids": token_ids(raw.get("eos_token_id"), "config.json: eos_token_id"),
        "initializer_range": file.number("initializer_range", 0.02),
    }
    return Config(**fields | family.from_hf(file), **precision)


def config_to_hf(config: Config) -> dict[str, Any]:
    """Returns the contents of config.json."""
    family = family_of(config)
    return {
        "architectures": [family.ARCHITECTURE],
        "model_type": family.MODEL_TYPE,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        **family.to_hf(config),
        "tie_word_embeddings": config.tied_embeddings,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids) if len(config.eos_ids) > 1 else next(iter(config.eos_ids), None),
    }


def build(config: Config, kind: str, key: jax.Array) -> nnx.Module:
    """Builds a CausalLM (kind "causal") or a ScalarModel (kind "scalar")."""
    return ScalarModel(config, key) if kind == "scalar" else CausalLM(config, key)


def abstract_model(config: Config, kind: str = "causal", mesh: parallel.AnyMesh | None = None) -> Model:
    """Returns the model as shapes, dtypes and (with a mesh) shardings; it takes no memory."""
    model = jax.eval_shape(lambda: Model.of(build(config, kind, jax.random.key(0))))
    if mesh is None:
        return model
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), model, parallel.shardings(model, mesh)
    )


def initialize(config: Config, key: jax.Array, mesh: jax.sharding.Mesh, kind: str = "causal") -> Model:
    """Initialises a model, each parameter in its shards."""
    out = parallel.shardings(abstract_model(config, kind), mesh)
    return jax.jit(lambda key: Model.of(build(config, kind, key)), out_shardings=out)(key)


def is_preset(name: str) -> bool:
    """Returns whether `from_preset` has a config of this name."""
    return any(name in module.PRESETS for module in FAMILIES.values())


def from_preset(name: str, **precision: str) -> Config:
    """Returns the config of a preset.

    Raises:
      ValueError: no such preset.
    """
    for module in FAMILIES.values():
        if name in module.PRESETS:
            return config_from_hf({"model_type": module.MODEL_TYPE} | module.PRESETS[name], **precision)
    raise ValueError(f"No preset {name!r}; there are {sorted(n for m in FAMILIES.values() for n in m.PRESETS)}.")


def kind_of(model: Model) -> str:
    """Returns "causal" or "scalar"."""
    return "scalar" if any(path[0] == "reward_head" for path, _ in named_leaves(model.params)) else "causal"


def named_leaves(params: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Returns (path, leaf) for every leaf of an nnx state, in the order of the tree."""
    return [
        (tuple(str(k.key) for k in path if hasattr(k, "key")), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
