"""Scores given text: per-token `logprobs` and `entropies` of a language model, or the `reward` of a reward model.

JSONL in, with `prompt` and `completion` (only the completion is scored), or `text`, or `prompt_tokens` and
`completion_tokens`; the same rows out with the scores, in the input's order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from lc_jax.data import examples, jsonl
from lc_jax.data.growing import fingerprint
from lc_jax.data.rows import load_placed_rows
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import score
from lc_jax.models import folders, hf

RECORD = "{output}.run.json"

KINDS = {"logprobs": "causal", "reward": "scalar"}


def _encode(row: dict[str, Any], where: str, tokenizer: Any) -> tuple[list[int], int]:
    """Token ids, and how many of them are context that is not scored."""
    if "completion_tokens" in row:
        prompt = list(row.get("prompt_tokens", []))
        return prompt + list(row["completion_tokens"]), len(prompt)
    if "completion" in row:
        prompt = examples.encode_prompt(tokenizer, row.get("prompt", ""))
        return examples.encode_prompt(tokenizer, row.get("prompt", "") + row["completion"]), len(prompt)
    if "text" in row:
        return examples.encode_prompt(tokenizer, row["text"]), 0
    raise ValueError(f"{where}: give `prompt` and `completion`, or `text`, or `prompt_tokens` and `completion_tokens`.")


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Writes `config.output`, a batch when the next one is under way; a rerun scores only what is missing.

    Raises:
      ValueError: `config.kind` is unknown or not the model's, a row holds nothing to score, or the output was begun
        with other settings.
    """
    if config.kind not in KINDS:
        raise ValueError(f"--config.kind={config.kind!r}: give one of {sorted(KINDS)}.")
    placed = load_placed_rows(config.input)
    rows = [row for _, row in placed]
    folders.check(config.model)
    kind = folders.config_of(config.model)[1]
    if kind != KINDS[config.kind]:
        raise ValueError(
            f"{config.model} is a {kind} model; --config.kind={config.kind} needs a {KINDS[config.kind]} one."
        )
    needs_text = any("completion_tokens" not in row for row in rows)
    tokenizer = load_tokenizer(config.model) if needs_text else None
    encoded = [_encode(row, str(place), tokenizer) for place, row in placed]
    output = Path(config.output)
    settings = {name: config[name] for name in ("model", "kind", "temperature")} | {"input": fingerprint(rows)}
    done = {row["row"] for row in jsonl.resume(output, settings)}
    todo = [i for i in range(len(rows)) if i not in done]
    logging.info("%d rows to score, %d already in %s", len(todo), len(done), output)

    model = hf.load(config.model, mesh, kind=KINDS[config.kind], **config.precision)
    sequences = [encoded[i][0] for i in todo]
    if config.kind == "reward":
        results: Iterator[tuple[int, Any]] = score.stream_rewards(model, sequences, batch_size=config.batch_size)
    else:
        results = score.stream_logprobs(model, sequences, batch_size=config.batch_size, temperature=config.temperature)
    for place, result in tqdm(results, total=len(todo), unit="row"):
        index = todo[place]
        if isinstance(result, score.TokenScores):
            first = max(encoded[index][1] - 1, 0)  # entry t is about token t + 1
            out = {"logprobs": result.logprobs[first:], "entropies": result.entropies[first:]}
        else:
            out = {"reward": result}
        jsonl.append_jsonl(output, [{"row": index} | rows[index] | out])
    jsonl.sort_jsonl(output, ("row",))
