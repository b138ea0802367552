"""Finds checkpoints and reads their descriptions: local folders, hub names, config.json, tokenizer files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lc_jax.models import adapters, difference, hub
from lc_jax.models.adapters import AdapterFolder
from lc_jax.models.config import Config
from lc_jax.models.config_file import ConfigFile
from lc_jax.models.layout import (
    ADAPTER,
    GENERATION,
    PICKLES,
    REWARD_MODEL,
    WEIGHTS,
    check_torch,
    copy_text_files,
    read_json,
)
from lc_jax.models.registry import FAMILIES, config_from_hf, config_to_hf, family_of, kind_of
from lc_jax.models.transformer import Model

GGUF = ".gguf"  # ending of files that hold a whole checkpoint
_FROM_GGUF = "make a folder of it by `lc_jax convert --source={} --destination=FOLDER`"


def is_gguf(path: str | Path) -> bool:
    """Returns whether `path` is named as a GGUF file."""
    return Path(path).suffix == GGUF


def resolve(path: str | Path) -> Path:
    """Returns a local folder as it is, and downloads a hub name ("owner/name" or "owner/name@revision").

    The published weight differences are recovered on the way; see `hub.recovered`.

    Raises:
      FileNotFoundError: neither a folder nor a repository that can be reached.
      ValueError: a weight difference does not fit its base, or its base is unknown.
    """
    check(path)
    if Path(path).is_dir():
        return Path(path)
    name = str(path)
    if hub.is_difference(name):
        return hub.recovered(name)
    folder = hub.download(name)
    if hub.repository(name).endswith(difference.ENDING) or difference.is_difference(folder):
        raise ValueError(difference.refusal(name, hub.BASE))
    return folder


def check(*paths: str | Path, allow_difference: bool = False) -> None:
    """Fails early when a local checkpoint is not there or not complete; hub names are not looked up.

    Args:
      allow_difference: take weight differences as well.

    Raises:
      FileNotFoundError: the folder, its config.json or its weights are missing; the message says which.
      ValueError: the folder holds a weight difference, or an adapter with parts that are not implemented.
    """
    for path in map(Path, paths):
        if not str(path) or str(path) == ".":
            raise FileNotFoundError("No checkpoint given: give a folder, or a name of the hub (OWNER/NAME).")
        if not path.is_dir():
            if path.is_file():
                remedy = _FROM_GGUF.format(path) if is_gguf(path) else "give the folder of a Hugging Face checkpoint"
                raise FileNotFoundError(f"{path} is a file: {remedy}.")
            if not hub.is_name(path):
                raise FileNotFoundError(f"No checkpoint folder {path}; {_remedy(path)}.")
            if hub.repository(str(path)) in hub.PICKLED:
                check_torch(path)
            continue
        if adapters.is_adapter(path):
            base = base_of(adapters.open_folder(path))
            try:
                check(base)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(
                    f"{path} is an adapter of {base}, which is needed too ({ADAPTER}: base_model_name_or_path): {error}"
                ) from error
            continue
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} has no config.json; it is not a checkpoint folder.")
        if not any((path / name).exists() for name in WEIGHTS):
            quantised = sorted(path.glob("*" + GGUF))
            hint = f"; {_FROM_GGUF.format(quantised[0])}" if quantised else ""
            raise FileNotFoundError(f"{path} has no weights: one of {WEIGHTS} is needed{hint}.")
        if any(path.glob(PICKLES)) and not any((path / name).exists() for name in WEIGHTS if ".bin" not in name):
            check_torch(path)
        if not allow_difference and difference.is_difference(path):
            raise ValueError(difference.refusal(path, hub.BASE))


def _remedy(path: Path) -> str:
    """Returns what to do about a checkpoint that is not there."""
    if path.parts[:2] == ("runs", "miniature"):
        return "bash launch/quickstart.sh makes it"
    if len(path.parts) == 1:
        return "correct the path, or name a model of the hub as OWNER/NAME"
    return "run the stage that writes it, or correct the path"


def base_of(adapter: AdapterFolder) -> str:
    """Returns the checkpoint that an adapter adapts: an absolute path, or a name of the hub.

    A folder that is not where the adapter's config says may be next to the adapter, with its name.

    Raises:
      ValueError: it is an adapter too.
    """
    base, folder = Path(adapter.lora.base), adapter.folder
    if hub.is_name(base):
        return adapter.lora.base
    neighbour = folder.parent / base.name
    base = neighbour if not base.is_dir() and neighbour.is_dir() else base
    if adapters.is_adapter(base):
        raise ValueError(
            f"{folder}/{ADAPTER}: its base {base} is an adapter too; merge that one into its own base first."
        )
    return str(base.resolve())


def adapted(config: Mapping[str, Any], adapter: AdapterFolder) -> dict[str, Any]:
    """Returns the base's config (see `read_config`) with the adapter's rows of the embedding, and its kind."""
    rows = {"vocab_size": adapter.vocab_size} if adapter.vocab_size else {}
    return {**config, **rows} | ({REWARD_MODEL: True} if adapter.kind == "scalar" else {})


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json of the (backbone) model, with the key "reward_model" if it is one.

    That of an adapter is its base's, with the adapter's rows of the embedding.
    """
    if adapters.is_adapter(folder):
        adapter = adapters.open_folder(folder)
        return adapted(read_config(resolve(base_of(adapter))), adapter)
    config = read_json(folder / "config.json")
    if is_classification(config):  # there is no language-model head, which a scalar model never uses
        return config | {REWARD_MODEL: True, "tie_word_embeddings": True}
    if config.get("model_type") != REWARD_MODEL:
        return config
    if "backbone_config" in config:
        return ConfigFile(config).group("backbone_config") | {REWARD_MODEL: True}
    backbone = Path(ConfigFile(config).text("backbone_model_name_or_path", "unnamed"))
    for place in (backbone, folder.parent / backbone.name):
        if (place / "config.json").is_file():
            return read_json(place / "config.json") | {REWARD_MODEL: True}
    raise FileNotFoundError(
        f"{folder}/config.json names its backbone {str(backbone)!r}, which is not there; put that folder next to it."
    )


def is_classification(config: Mapping[str, Any]) -> bool:
    """Returns whether a config.json is of transformers' sequence classification (classification.py)."""
    names = config.get("architectures")
    return isinstance(names, list) and str(next(iter(names), "")).endswith("ForSequenceClassification")


def parse_config(raw: Mapping[str, Any], path: str | Path, **precision: Any) -> tuple[Config, str]:
    """Returns the config in `raw` (see `read_config`), and its kind ("causal" or "scalar").

    Args:
      path: of the checkpoint, for messages.

    Raises:
      ValueError: the family, or something that the config asks for, is not implemented.
    """
    if raw.get("model_type") not in list(FAMILIES):  # a list: what is no text has no hash
        raise ValueError(f"{path}/config.json: model_type={raw.get('model_type')!r} is none of {sorted(FAMILIES)}.")
    if raw.get("quantization_config"):
        raise ValueError(
            f"{path}/config.json: quantization_config: quantised checkpoints are not read. Give the original, or "
            "dequantise it with transformers (model.dequantize(), then save_pretrained)."
        )
    try:
        return config_from_hf(raw, **precision), "scalar" if raw.get(REWARD_MODEL) else "causal"
    except ValueError as error:
        raise ValueError(f"{path}/{error}" if str(error).startswith("config.json") else str(error)) from error


def config_of(path: str | Path, **precision: Any) -> tuple[Config, str]:
    """Returns the config of the checkpoint at `path`, and its kind; see `resolve` and `parse_config`."""
    return parse_config(read_config(resolve(path)), path, **precision)


def write_configs(folder: Path, model: Model, dtype: str, tokenizer: Any) -> None:
    """Writes config.json, generation_config.json and the files of the tokenizer; `tokenizer` as in `hf.save`."""
    write_text_files(folder, tokenizer)
    config = config_to_hf(model.config) | {"dtype": dtype}
    if kind_of(model) == "scalar":
        wrapped = {"architectures": ["RewardModel"], "model_type": REWARD_MODEL, "backbone_config": config}
        (folder / "config.json").write_text(json.dumps(wrapped, indent=2))
        return
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if (folder / GENERATION).exists():
        return
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id") if config[key] is not None}
    (folder / GENERATION).write_text(json.dumps(generation, indent=2))


def write_adapter_config(folder: Path, model: Model, head_bias: float, tokenizer: Any) -> None:
    """Writes adapter_config.json and the files of the tokenizer; `tokenizer` as in `hf.save`.

    What PEFT has no key for, and ignores with a warning, is written only where it is needed: rows of the embedding that
    the base lacks, and the bias of a reward model's head.
    """
    lora = model.config.lora
    assert lora is not None
    assert lora.base  # the model is of `hf.read`
    write_text_files(folder, tokenizer)
    config = adapters.config_to_peft(lora, family_of(model.config).KEYS, kind_of(model))
    config |= {"vocab_size": model.config.vocab_size} if model.config.vocab_size != lora.base_rows else {}
    config |= {"reward_head_bias": head_bias} if head_bias else {}
    (folder / ADAPTER).write_text(json.dumps(config, indent=2))


def write_text_files(folder: Path, tokenizer: Any) -> None:
    """Writes the files of the tokenizer; `tokenizer` as in `hf.save`."""
    if isinstance(tokenizer, str | Path):
        copy_text_files(Path(tokenizer), folder)
    elif tokenizer is not None:
        tokenizer.save(folder)


def text_folder(folder: Path) -> Path:
    """Returns the folder with a checkpoint's tokenizer: that of an adapter without one is its base."""
    if not adapters.is_adapter(folder) or has_tokenizer(folder):
        return folder
    return resolve(base_of(adapters.open_folder(folder)))


def has_tokenizer(path: str | Path) -> bool:
    """Returns whether the local folder holds a tokenizer."""
    return any((Path(path) / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
