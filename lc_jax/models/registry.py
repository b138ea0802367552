"""Which families there are, and models of them by config: as shapes only, freshly initialised, or by preset name."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
from flax import nnx

from lc_jax import parallel
from lc_jax.models import gpt_neox, llama
from lc_jax.models.heads import ScalarModel
from lc_jax.models.transformer import Config, Model

FAMILIES: dict[str, tuple[ModuleType, type[Config]]] = {
    llama.MODEL_TYPE: (llama, llama.LlamaConfig),
    gpt_neox.MODEL_TYPE: (gpt_neox, gpt_neox.GPTNeoXConfig),
}


def family_of(config: Config) -> tuple[ModuleType, type[Config]]:
    """The module and config class that `config` belongs to."""
    return next(f for f in FAMILIES.values() if isinstance(config, f[1]))


def build(config: Config, kind: str, key: jax.Array) -> nnx.Module:
    """A CausalLM (kind "causal") or a ScalarModel (kind "scalar")."""
    return ScalarModel(config, key) if kind == "scalar" else config.build(key)


def abstract_model(config: Config, kind: str = "causal", mesh: parallel.AnyMesh | None = None) -> Model:
    """Returns the model as shapes, dtypes and (with a mesh) shardings; it takes no memory."""
    model = jax.eval_shape(lambda: Model.of(build(config, kind, jax.random.key(0))))
    if mesh is None:
        return model
    placed = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        model.params,
        parallel.shardings(model.params, mesh),
    )
    return model.with_params(placed)


def initialize(config: Config, key: jax.Array, mesh: jax.sharding.Mesh, kind: str = "causal") -> Model:
    """A freshly initialised model, born in its shards."""
    model = abstract_model(config, kind)
    out = parallel.shardings(model.params, mesh)
    params = jax.jit(lambda key: nnx.split(build(config, kind, key))[1], out_shardings=out)(key)
    return model.with_params(params)


def is_preset(name: str) -> bool:
    """Whether `from_preset` has a config of this name."""
    return any(name in module.PRESETS for module, _ in FAMILIES.values())


def from_preset(name: str, **precision: str) -> Config:
    """The config of a model known by name.

    Raises:
      ValueError: no such preset.
    """
    for module, cls in FAMILIES.values():
        if name in module.PRESETS:
            return cls.from_hf(module.PRESETS[name], **precision)
    raise ValueError(f"No preset {name!r}; there are {sorted(n for m, _ in FAMILIES.values() for n in m.PRESETS)}.")


def kind_of(model: Model) -> str:
    """Returns "causal" or "scalar"."""
    return "scalar" if any(path[0] == "reward_head" for path, _ in named_leaves(model.params)) else "causal"


def named_leaves(params: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Returns (path, leaf) for every leaf of an nnx state, in the order of the tree."""
    return [
        (tuple(str(k.key) for k in path if hasattr(k, "key")), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    ]
