"""Scores given text: per-token `logprobs` and `entropies` of a language model, or the `reward` of a reward model.

JSONL in, with `prompt` (or `messages`) and `completion`, of which the completion is scored, or `text`, or
`prompt_tokens` and `completion_tokens`; the same rows out with the scores, in the input's order. A token that holds
text of prompt and completion counts to the completion.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from lc_jax.data import jsonl
from lc_jax.data.cells import parse_messages
from lc_jax.data.memo import memoise
from lc_jax.data.rows import load_placed_rows
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import score
from lc_jax.inference.finite import check_finite
from lc_jax.models import folders, hf
from lc_jax.preflight import POSITIVE, POSITIVE_INT, check_all, check_settings
from lc_jax.provenance import fingerprint
from lc_jax.training import checks

RECORD = "{output}.run.json"

KINDS = {"logprobs": "causal", "reward": "scalar"}


def _encode(row: dict[str, Any], where: str, tokenizer: Tokenizer, has_context: bool) -> tuple[list[int], int]:
    """Returns token ids, and the number of those that are context and not scored.

    Args:
      has_context: the first token that is scored needs one before it, as log-probabilities do.
    """
    if row.get("completion_tokens") is not None:
        prompt = tokenizer.check_ids(row.get("prompt_tokens") or [], where)
        ids, num_prompt = prompt + tokenizer.check_ids(row["completion_tokens"], where), len(prompt)
        if len(ids) == num_prompt:
            raise ValueError(f"{where}: `completion_tokens` is empty: give ids, or leave the row out.")
    elif row.get("completion") is not None:
        prompt_text = parse_messages(row["messages"], where) if row.get("messages") else row.get("prompt") or ""
        _check_text(row["completion"], prompt_text, where=where)
        ids, num_prompt = tokenizer.encode_pair(prompt_text, row["completion"], where)
    elif row.get("text") is not None:
        _check_text(row["text"], where=where)
        ids = tokenizer.encode_prompt(row["text"], where)
        num_prompt = min(1, len(ids))
    else:
        raise ValueError(
            f"{where}: give `prompt` (or `messages`) and `completion`, or `text`, or `prompt_tokens` and "
            f"`completion_tokens`; the row has {sorted(row)}."
        )
    if not ids or (has_context and not 0 < num_prompt < len(ids)):
        raise ValueError(f"{where}: no token is scored, or none is before it: give a `prompt`, or more `text`.")
    return ids, num_prompt


def _check_text(*values: Any, where: str) -> None:
    wrong = next((value for value in values if not isinstance(value, str | tuple)), None)
    if wrong is not None:
        raise ValueError(f"{where}: prompt, completion and text must be text, not {type(wrong).__name__}.")


@memoise
def _load_sequences(source: str, model: str, kind: str) -> list[tuple[list[int], int]]:
    """Loads the rows of the file `source`; returns token ids of each, and the number of those that are not scored.

    Raises:
      FileNotFoundError, ValueError: no such file or tokenizer, or a row that cannot be scored; the message names it.
    """
    placed = load_placed_rows(source)
    tokenizer = load_tokenizer(model, any(row.get("completion_tokens") is None for _, row in placed))
    return [_encode(row, str(place), tokenizer, kind != "reward") for place, row in placed]


def _check_kind(model: str, kind: str) -> None:
    """Checks that the kind of a checkpoint fits `kind`.

    Raises:
      ValueError: a language model where rewards are asked for, or a reward model otherwise.
    """
    names = {"causal": "a language model", "scalar": "a reward model"}
    model_kind = folders.config_of(model)[1]
    if model_kind != KINDS[kind]:
        raise ValueError(
            f"--config.model={model} is {names[model_kind]}; --config.kind={kind} takes {names[KINDS[kind]]}."
        )


def check(config: ConfigDict) -> None:
    """Checks numbers, files, rows and folders, and reports all problems at once."""

    def model() -> None:
        local = checks.check_model("model", config.model, "scalar")
        if local is not None and config.kind in KINDS:
            _check_kind(config.model, config.kind)
            _load_sequences(config.input, config.model, config.kind)

    check_all(
        lambda: check_settings("", config, batch_size=POSITIVE_INT, temperature=POSITIVE, kind=tuple(KINDS)),
        lambda: load_placed_rows(config.input),
        lambda: checks.check_precision(**config.precision),
        model,
    )


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Writes `config.output`, each batch while the next one is computed; a rerun scores the missing rows.

    Raises:
      ValueError: `config.kind` is not the model's, a row holds nothing to score, or the output was begun with other
        settings.
      FloatingPointError: the model computes numbers that are not finite.
    """
    placed = load_placed_rows(config.input)
    rows = [row for _, row in placed]
    _check_kind(config.model, config.kind)
    encoded, is_reward = _load_sequences(config.input, config.model, config.kind), config.kind == "reward"
    output = Path(config.output)
    settings = {name: config[name] for name in ("model", "kind", "temperature")}
    settings |= {"input": fingerprint(rows), "input_ids": fingerprint(encoded)}  # ids: chat template, tokenizer files
    existing = {row["row"] for row in jsonl.resume(output, settings)}
    todo = [i for i in range(len(rows)) if i not in existing]
    logging.info("%d rows to score, %d already in %s", len(todo), len(existing), output)

    model = hf.load(config.model, mesh, kind=KINDS[config.kind], **config.precision)
    sequences = [encoded[i][0] for i in todo]
    if is_reward:
        results: Iterator[tuple[int, Any]] = score.stream_rewards(model, sequences, batch_size=config.batch_size)
    else:
        results = score.stream_logprobs(model, sequences, batch_size=config.batch_size, temperature=config.temperature)
    for place, result in tqdm(results, total=len(todo), unit="row"):
        index, where = todo[place], str(placed[todo[place]][0])
        if isinstance(result, score.TokenScores):
            first = max(encoded[index][1] - 1, 0)  # entry t is about token t + 1
            check_finite(result.logprobs, config.model, where)
            out = {"logprobs": result.logprobs[first:], "entropies": result.entropies[first:]}
        else:
            check_finite([result], config.model, where)
            out = {"reward": result}
        jsonl.append_jsonl(output, [{"row": index} | rows[index] | out])
    jsonl.sort_jsonl(output, ("row",))
    logging.info("Made %s: %d rows with their %s.", output, len(rows), config.kind)
