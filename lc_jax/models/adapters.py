"""Folders of low-rank adapters as the library PEFT writes them: adapter_config.json and adapter_model.safetensors.

Such a folder names the checkpoint that it adapts, its base, and is a checkpoint wherever one is asked for: its matrices
are W + (alpha / rank) A B.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lc_jax.models import hub
from lc_jax.models.config import LINEAR, Lora
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.layout import ADAPTER, BACKBONE, SCORE, read_json
from lc_jax.models.linear import ADAPTERS
from lc_jax.models.params import PEFT
from lc_jax.models.registry import FAMILIES
from lc_jax.models.tensors import Tensors

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
HEAD_KEY = f"base_model.model.{SCORE}"  # of a reward model's head
KINDS = {"CAUSAL_LM": "causal", "SEQ_CLS": "scalar"}  # by task_type
HEADS = ["score", "classifier"]  # what PEFT saves with a reward model's adapter: the one of these that the model has
# Settings of PEFT that change what an adapter computes, and are not implemented.
REFUSED = (
    "fan_in_fan_out", "use_dora", "lora_bias", "use_qalora", "rank_pattern", "alpha_pattern", "trainable_token_indices",
    "layer_replication", "layers_to_transform", "target_parameters", "alora_invocation_tokens", "arrow_config",
    "use_bdlora", "kasa_config", "monteclora_config", "velora_config",
)  # fmt: skip
# Values of init_lora_weights that leave the base as it is. PEFT subtracts others, such as "pissa", from its matrices.
INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
MERGE = "Merge the adapter into its base with peft (merge_and_unload), save the result and give that folder."


@dataclasses.dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk."""

    folder: Path
    kind: str  # "causal", or "scalar" with the head of a reward model
    lora: Lora  # its targets are those that have tensors
    dropout: float  # with which it was trained
    vocab_size: int | None  # rows of the embedding, where they are not the base's
    head_bias: float  # which PEFT and transformers do not add

    tensors: Tensors

    def merge(self, part: np.ndarray, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """Returns a slice of the base's tensor `key` with the adapter's part added in float32; itself without one.

        Args:
          part: the slice, [out, in].
          index: of the slice in the tensor.
        """
        a, b = (PEFT[name].format(key.removeprefix(BACKBONE).removesuffix(".weight")) for name in ADAPTERS)
        if a not in self.tensors.names():
            return part
        rows, columns = self.tensors.slice(b)[index[0], :], self.tensors.slice(a)[:, index[1]]
        delta = rows.astype(np.float32) @ columns.astype(np.float32)
        return part.astype(np.float32) + np.float32(self.lora.scale) * delta


def is_adapter(folder: Path) -> bool:
    """Returns whether a folder holds an adapter."""
    return (folder / ADAPTER).is_file()


def open_folder(folder: Path) -> AdapterFolder:
    """Reads adapter_config.json, and the names of the tensors.

    Raises:
      FileNotFoundError: the tensors are missing.
      ValueError: it is no LoRA adapter of a language or reward model, or has parts that are not implemented.
    """
    raw, where = read_json(folder / ADAPTER), f"{folder}/{ADAPTER}"
    for key, allowed in {"peft_type": ["LORA"], "task_type": list(KINDS)}.items():
        if raw.get(key) not in allowed:
            raise ValueError(f"{where}: {key}={raw.get(key)!r} is not read, only {' and '.join(allowed)}.")
    heads = HEADS if KINDS[raw["task_type"]] == "scalar" else []
    inert: dict[str, tuple[Any, ...]] = dict.fromkeys(REFUSED, ({}, []))
    inert |= {"bias": ("none",), "init_lora_weights": INITIALISATIONS}
    for key, values in inert.items():
        if raw.get(key) is not None and raw[key] is not False and raw[key] not in values:
            raise ValueError(f"{where}: {key}={raw[key]!r} is not implemented. {MERGE}")
    if set(raw.get("modules_to_save") or []) - set(heads):
        raise ValueError(f"{where}: modules_to_save={raw['modules_to_save']!r} is not implemented. {MERGE}")
    try:
        config = ConfigFile(raw)
        rank, alpha = config.integer("r"), config.number("lora_alpha", 8.0)
        dropout = config.number("lora_dropout") if raw.get("lora_dropout") else 0.0
        base, revision = config.text("base_model_name_or_path", ""), config.text("revision", "")
        vocab_size = config.integer("vocab_size") if "vocab_size" in raw else None
        head_bias = float(raw.get("reward_head_bias") or 0.0)
    except ValueError as error:
        raise ValueError(str(error).replace("config.json", where, 1)) from error
    if not base:
        raise ValueError(
            f"{where}: base_model_name_or_path is missing: write the folder or hub name of the base there."
        )
    if raw.get("use_rslora"):  # scaled by alpha / sqrt(rank)
        alpha *= math.sqrt(rank)
    base += f"@{revision}" if revision and hub.is_name(base) and "@" not in base else ""
    tensors = Tensors(folder, WEIGHTS)
    lora = Lora(rank, alpha, _targets(tensors, rank, where), base=base)
    return AdapterFolder(folder, KINDS[raw["task_type"]], lora, dropout, vocab_size, head_bias, tensors)


def module_of(key: str) -> str:
    """Returns the name of the module that a key of a family's matrix belongs to, such as "q_proj"."""
    return key.removesuffix(".weight").rpartition(".")[2]


def _targets(tensors: Tensors, rank: int, where: str) -> tuple[str, ...]:
    """Returns the linear layers that have adapters, by our names: PEFT's config may have patterns in place of names.

    Raises:
      ValueError: a tensor is of no such adapter, an adapter has another rank, or some layers lack one.
    """
    modules = {
        module_of(family.KEYS[f"layers.{name}.kernel"]): name
        for family in FAMILIES.values()
        for name in LINEAR
        if f"layers.{name}.kernel" in family.KEYS and not hasattr(family, "JOINT")
    }
    layers: dict[str, set[str]] = {}  # tensors of each module, without its name
    for key in tensors.names():
        prefix, _, rest = key.rpartition(".lora_")
        path, _, module = prefix.rpartition(".")
        if key == HEAD_KEY:
            continue
        if rest not in ("A.weight", "B.weight"):
            raise ValueError(f"{where}: its folder holds {key}, which is no adapter of a linear layer. {MERGE}")
        if module not in modules:
            raise ValueError(f"{where}: target_modules: adapters of {module} ({key}) are not implemented. {MERGE}")
        if tensors.shape(key)[rest[0] == "B"] != rank:
            raise ValueError(
                f"{where}: r={rank}, but {key} has shape {list(tensors.shape(key))}: write the rank that it has there."
            )
        layer = path.partition(".layers.")[2].partition(".")[0]
        layers.setdefault(module, set()).add(f"layer {layer} {rest[0]}")
    every = set[str]().union(*layers.values())
    for module, names in layers.items():
        if names != every:
            raise ValueError(
                f"{where}: target_modules, exclude_modules: {module} has no adapter in {min(every - names)}; "
                f"layers with other adapters than the rest are not implemented. {MERGE}"
            )
    return tuple(name for name in LINEAR if name in {modules[module] for module in layers})


def config_to_peft(lora: Lora, keys: Mapping[str, str], kind: str) -> dict[str, Any]:
    """Returns the contents of adapter_config.json.

    Args:
      keys: of the family, from parameter paths to tensors.
    """
    modules = {module_of(keys[f"layers.{name}.kernel"]) for name in lora.targets}
    name, _, revision = lora.base.partition("@") if hub.is_name(lora.base) else (lora.base, "", "")
    return {
        "peft_type": "LORA",
        "task_type": next(task for task, value in KINDS.items() if value == kind),
        "base_model_name_or_path": name,
        "revision": revision or None,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha % 1 == 0 else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "modules_to_save": HEADS[:1] if kind == "scalar" else None,
        "bias": "none",
        "inference_mode": True,
    }
