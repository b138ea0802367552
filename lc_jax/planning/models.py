"""Checkpoints of stages, and their shapes before they are trained or downloaded."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from lc_jax.models import folders, registry
from lc_jax.models.config import Config, Lora
from lc_jax.models.hub import is_difference
from lc_jax.planning.stages import Stage


def fields(config: ConfigDict) -> Iterator[tuple[ConfigDict, str]]:
    """Yields (part of the config, field) for each checkpoint that a stage loads."""
    if config.get("what", "paragraphs") != "paragraphs":
        return
    parts = [(config, key) for key in ("model", "policy", "critic")]
    parts += [(config.reader, key) for key in ("extractor", "forecaster")] if config.task == "ppo" else []
    yield from ((part, key) for part, key in parts if part.get(key))


class Models:
    """Folders or presets with the shapes of the stages' checkpoints.

    An existing folder stands for itself. A folder that an earlier stage makes has the shape of that stage's model, and
    a hub name that of `shapes`, or else of a preset that the name suggests.
    """

    def __init__(self, stages: Sequence[Stage], shapes: Mapping[str, str] | None = None) -> None:
        self._makers = {stage.result: stage.config for stage in stages}
        self._shapes = dict(shapes or {})

    def shape_of(self, path: str) -> str:
        """Returns a folder or preset with the shapes of the checkpoint `path`."""
        if Path(path).is_dir() or registry.is_preset(path):
            return path
        maker = self._makers.get(path)
        if maker is not None:
            return self.shape_of(maker.get("model") or maker.policy)
        return self._shapes.get(path) or _from_name(path)

    def config_of(self, path: str) -> Config:
        """Returns the architecture of a checkpoint."""
        return _config(self.shape_of(path))

    def with_shapes(self, config: ConfigDict) -> ConfigDict:
        """Returns a copy of a config with its checkpoints replaced by `shape_of`."""
        config = config.copy_and_resolve_references()
        for part, key in list(fields(config)):
            part[key] = self.shape_of(part[key])
        return config

    def names_of(self, config: ConfigDict) -> list[str]:
        """Returns the distinct models of a stage, with their sizes: "llama-2-7b (6,738M)"."""
        return list(dict.fromkeys(self._name(part[key]) for part, key in fields(config)))

    def _name(self, path: str) -> str:
        shape = self.shape_of(path)
        family = registry.family_of(self.config_of(path))
        name = shape if registry.is_preset(shape) else family.ARCHITECTURE.removesuffix("ForCausalLM")
        return f"{name} ({self.num_parameters(path) / 1e6:,.0f}M)"

    def num_parameters(self, path: str) -> float:
        """Returns the number of parameters of a checkpoint."""
        return _num_parameters(self.shape_of(path))

    def num_trained(self, path: str, config: ConfigDict) -> float:
        """Returns the number of parameters of a checkpoint that a stage of this config trains, saves and exports."""
        return _num_parameters(self.shape_of(path), Lora.of(config.lora.to_dict()) if "lora" in config else None)


@functools.cache
def _config(shape: str) -> Config:
    return registry.from_preset(shape) if registry.is_preset(shape) else folders.config_of(shape)[0]


@functools.cache
def _num_parameters(shape: str, lora: Lora | None = None) -> float:
    config = dataclasses.replace(_config(shape), lora=lora)
    return float(sum(leaf.size for leaf in jax.tree.leaves(registry.abstract_model(config).params)))


def _from_name(path: str) -> str:
    """Guesses a preset from a name."""
    name = path.lower()
    if not is_difference(path) and any(word in name for word in ("redpajama", "extract_answers", "extract-")):
        return "redpajama-incite-3b"
    return "llama-2-13b" if "13b" in name else "llama-2-7b"
