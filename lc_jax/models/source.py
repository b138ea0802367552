"""The folders with the tensors of a checkpoint: one, or that of an adapter and that of its base."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from lc_jax.models import adapters, hub
from lc_jax.models.adapters import HEAD_KEY, AdapterFolder
from lc_jax.models.classification import HEAD_WEIGHT
from lc_jax.models.config import Config, Lora
from lc_jax.models.folders import adapted, base_of, parse_config, read_config, resolve
from lc_jax.models.layout import ADAPTER, BACKBONE, HEAD, REWARD_MODEL, SCORE
from lc_jax.models.params import ParamSpec, param_specs
from lc_jax.models.registry import abstract_model, family_of, named_leaves
from lc_jax.models.tensors import Tensors
from lc_jax.models.transformer import Model


@dataclasses.dataclass(frozen=True)
class Source:
    """The folders of a checkpoint, which are one where it is no adapter."""

    folder: Path
    base: Path  # `folder` itself where there is no adapter
    base_name: str  # an absolute path, or a name of the hub
    adapter: AdapterFolder | None
    raw: Mapping[str, Any]  # config of the base
    vocab_size: int  # rows of the base's embedding

    @classmethod
    def at(cls, path: str | Path) -> Self:
        """Opens the folders, of which only the configs are read yet."""
        base = folder = resolve(path)
        adapter, name = None, str(path)
        if adapters.is_adapter(folder):
            adapter = adapters.open_folder(folder)
            name = base_of(adapter)
            base = resolve(name)
        if Path(name).is_dir() or hub.is_difference(name):  # what other programs know by that name is no model
            name = str(base.resolve())
        raw = read_config(base)
        config, _ = parse_config(raw, base)
        if adapter is not None and (others := set(adapter.lora.targets) - set(config.linear_layers)):
            raise ValueError(
                f"{folder}/{ADAPTER}: target_modules: it adapts {','.join(sorted(others))}, which {config.model_type} "
                f"lacks: base_model_name_or_path={name} is not the base that it was trained on; write that one there."
            )
        return cls(folder, base, name, adapter, raw, config.vocab_size)

    def config(self, **fields: Any) -> tuple[Config, str]:
        """Returns the config of the checkpoint, and its kind; `fields` as in `hf.read`."""
        raw = self.raw if self.adapter is None else adapted(self.raw, self.adapter)
        return parse_config(raw, self.folder, **fields)

    @functools.cached_property
    def tensors(self) -> Tensors:
        """The tensors of the base."""
        return Tensors(self.base)

    @property
    def is_scalar(self) -> bool:
        """Returns whether the base is a reward model."""
        return bool(self.raw.get(REWARD_MODEL))

    @property
    def is_classification(self) -> bool:
        """Returns whether the base is a reward model as transformers stores it."""
        return self.is_scalar and SCORE in self.tensors.names()

    @property
    def head_bias(self) -> float | None:
        """The bias of a reward head that config files hold; None where a tensor does."""
        if self.adapter is not None and self.adapter.kind == "scalar":
            return self.adapter.head_bias
        return float(self.raw.get("reward_head_bias") or 0.0) if self.is_classification else None

    def is_tied(self, config: Config) -> bool:
        """Returns whether the base has no head, or one that equals the embedding, a thousand rows at a time."""
        family, tensors, prefix = family_of(config), self.tensors, BACKBONE if self.is_scalar else ""
        keys = prefix + family.KEYS["embedding"], prefix + family.KEYS["head.kernel"]
        if keys[1] not in tensors.names() or keys[0] not in tensors.names():
            return True
        if tensors.shape(keys[0]) != tensors.shape(keys[1]):
            return False
        embedding, head = map(tensors.slice, keys)
        rows = tensors.shape(keys[0])[0]
        blocks = (slice(i, min(i + 1000, rows)) for i in range(0, rows, 1000))
        return all(np.array_equal(embedding[block], head[block]) for block in blocks)

    def as_stored(self, spec: ParamSpec) -> ParamSpec:
        """Returns the parameter with its keys in the base, in which a language model's have no prefix."""
        keys = spec.hf_keys
        if not self.is_scalar or self.is_classification:
            keys = tuple(key.removeprefix(BACKBONE) for key in keys)
        if self.is_classification:
            keys = tuple(SCORE if key == HEAD + "weight" else key for key in keys)
        return dataclasses.replace(spec, hf_keys=keys)

    def lora(self, config: Config, backbone: Model | None = None) -> Lora | None:
        """Returns the adapters that the model will have: of the config, or of the folder if it shares `backbone`.

        Raises:
          ValueError: the config asks for other adapters than the folder has, or the family stores several matrices in
            one tensor.
        """
        lora, on_disk = config.lora, self.adapter.lora if self.adapter else None
        if lora is None and on_disk is not None and backbone is not None and backbone.config.lora is not None:
            is_same = backbone.config.lora.base == self.base_name
            lora = dataclasses.replace(on_disk, int8=backbone.config.lora.int8) if is_same else None
        elif lora is not None and self.adapter is not None and self.adapter.dropout:
            raise ValueError(
                f"{self.folder}/{ADAPTER}: lora_dropout={self.adapter.dropout:g}: dropout in training is not "
                "implemented; write 0 there to train on without it."
            )
        if (lora or on_disk) is not None and hasattr(family_of(config), "JOINT"):
            raise ValueError(
                f"{self.folder}: adapters of {config.model_type} are not implemented, whose folders hold several "
                "matrices in one tensor: give --config.lora.rank=0, or a folder that peft has merged."
            )
        if lora is None:
            return None
        lora = dataclasses.replace(
            lora, targets=lora.targets or config.linear_layers, base=self.base_name, base_rows=self.vocab_size
        )
        if on_disk is None:
            return lora
        if (lora.rank, set(lora.targets)) != (on_disk.rank, set(on_disk.targets)) or not math.isclose(
            lora.alpha, on_disk.alpha, rel_tol=1e-6
        ):
            raise ValueError(
                f"{self.folder} is an adapter of rank {on_disk.rank}, alpha {on_disk.alpha:.10g} for "
                f"{','.join(on_disk.targets)}, and --config.lora has {lora.rank}, {lora.alpha:.10g} and "
                f"{','.join(lora.targets)}: give the same, or merge it first by `lc_jax convert --source={self.folder} "
                "--destination=FOLDER`."
            )
        return dataclasses.replace(lora, alpha=on_disk.alpha)

    def adapter_specs(self, config: Config, kind: str) -> dict[tuple[str, ...], ParamSpec]:
        """Returns the parameters of a model of `kind` that the adapter's folder holds: by path, with keys there."""
        if self.adapter is None:
            return {}
        model = abstract_model(dataclasses.replace(config, lora=self.adapter.lora), kind)
        layout = {spec.path: spec for spec in param_specs(model) if spec.is_adapter}
        if self.adapter.kind == "scalar":
            head = next(spec for spec in param_specs(model) if spec.path == HEAD_WEIGHT)
            layout[HEAD_WEIGHT] = dataclasses.replace(head, hf_keys=(HEAD_KEY,))
        return layout


def shareable(backbone: Model | None, config: Config) -> dict[tuple[str, ...], Any]:
    """Returns the frozen parameters of `backbone` by path, if the model of `config` has adapters of the same base.

    Paths are those of a language model, also of a scalar one (see `causal_path`).
    """
    ours, theirs = config.lora, backbone.config.lora if backbone is not None else None
    if ours is None or theirs is None or ours.base != theirs.base or backbone is None:
        return {}
    return {causal_path(path): array for path, array in named_leaves(backbone.frozen)}


def causal_path(path: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the path in a language model of a parameter that may be of a scalar model's backbone."""
    return path[path[0] == "backbone_model" :]
