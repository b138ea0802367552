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
# Settings of PEFT that change what an adapter computes, and are not implemented.
REFUSED = (
    "fan_in_fan_out", "use_dora", "lora_bias", "use_qalora", "rank_pattern", "alpha_pattern", "trainable_token_indices",
    "layer_replication", "target_parameters", "alora_invocation_tokens", "arrow_config", "use_bdlora", "kasa_config",
    "monteclora_config", "velora_config",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AdapterFolder:
    """An adapter on disk."""

    folder: Path
    kind: str  # "causal", or "scalar" with the head of a reward model
    lora: Lora  # its targets are those that have tensors
    vocab_size: int | None  # rows of the embedding, where they are not the base's
    head_bias: float  # which PEFT and transformers do not add

    tensors: Tensors

    def merged(self, part: np.ndarray, key: str, index: tuple[slice, ...]) -> np.ndarray:
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
    refused = [key for key in REFUSED if raw.get(key)] + ["bias"] * (raw.get("bias") not in (None, "none"))
    if refused:
        raise ValueError(
            f"{where}: {refused[0]}={raw[refused[0]]!r} is not implemented. Merge the adapter into its base with peft "
            "(merge_and_unload), save the result and give that folder."
        )
    try:
        config = ConfigFile(raw)
        rank, alpha = config.integer("r"), config.number("lora_alpha", 8.0)
        base = config.text("base_model_name_or_path", "")
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
    tensors = Tensors(folder, WEIGHTS)
    lora = Lora(rank, alpha, _targets(tensors), base=base)
    return AdapterFolder(folder, KINDS[raw["task_type"]], lora, vocab_size, head_bias, tensors)


def _targets(tensors: Tensors) -> tuple[str, ...]:
    """Returns the linear layers that have adapters, by our names: PEFT's config may have patterns in place of names."""
    modules = {
        family.KEYS[f"layers.{name}.kernel"].removesuffix(".weight").rpartition(".")[2]: name
        for family in FAMILIES.values()
        for name in LINEAR
        if f"layers.{name}.kernel" in family.KEYS and not hasattr(family, "JOINT")
    }
    names = {key.split(".")[-3] for key in tensors.names() if key.endswith(".lora_A.weight")}
    return tuple(name for name in LINEAR if name in {modules.get(module) for module in names})


def config_to_peft(lora: Lora, keys: Mapping[str, str], kind: str) -> dict[str, Any]:
    """Returns the contents of adapter_config.json.

    Args:
      keys: of the family, from parameter paths to tensors.
    """
    modules = {keys[f"layers.{name}.kernel"].removesuffix(".weight").rpartition(".")[2] for name in lora.targets}
    return {
        "peft_type": "LORA",
        "task_type": next(name for name, value in KINDS.items() if value == kind),
        "base_model_name_or_path": lora.base,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha % 1 == 0 else lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "modules_to_save": ["score"] if kind == "scalar" else None,
        "bias": "none",
        "inference_mode": True,
    }
