"""Decodes prompts: JSONL with `prompt` (or `prompt_tokens`) in; `completion`, `tokens`, `logprobs` out."""

from __future__ import annotations

from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from lc_jax.data import examples, jsonl
from lc_jax.data.growing import fingerprint
from lc_jax.data.rows import load_placed_rows
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.models import folders, hf

RECORD = "{output}.run.json"


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Writes `config.output`, a batch when the next one is under way; a rerun asks only for what is missing.

    Raises:
      ValueError: a row has neither `prompt` nor `prompt_tokens`, or the output was begun with other settings.
    """
    placed = load_placed_rows(config.prompts)
    rows = [row for _, row in placed]
    folders.check(config.model)
    needs_text = any("prompt_tokens" not in row for row in rows)
    tokenizer = load_tokenizer(config.model) if needs_text or folders.has_tokenizer(config.model) else None
    prompts = []
    for place, row in placed:
        if "prompt" not in row and "prompt_tokens" not in row:
            raise ValueError(f"{place}: give `prompt` (text) or `prompt_tokens` (ids).")
        prompts.append(row.get("prompt_tokens") or examples.encode_prompt(tokenizer, row["prompt"]))
    output = Path(config.output)
    names = ("model", "num_samples", "max_new_tokens", "temperature", "top_p", "top_k", "seed")
    settings = {name: config[name] for name in names} | {"prompts": fingerprint(rows)}
    done = {(row["row"], row["sample"]) for row in jsonl.resume(output, settings)}
    todo = [(i, s) for i in range(len(rows)) for s in range(config.num_samples) if (i, s) not in done]
    logging.info("%d completions to write, %d already in %s", len(todo), len(done), output)

    model = hf.load(config.model, mesh, **config.precision)
    eos = (tokenizer.eos_token_id,) if tokenizer else folders.eos_ids(config.model)
    sampling = generate.Sampling(
        config.max_new_tokens,
        config.temperature,
        config.top_p,
        config.top_k,
        eos_ids=eos,
        pad_id=tokenizer.pad_token_id if tokenizer else None,
    )
    finished = generate.stream(
        model,
        [prompts[i] for i, _ in todo],
        sampling,
        seed=config.seed,
        batch_size=config.batch_size,
        row_ids=[i * config.num_samples + s for i, s in todo],
    )
    for place, completion in tqdm(finished, total=len(todo), unit="completion"):
        index, sample = todo[place]
        text = tokenizer.decode(completion.tokens, skip_special_tokens=True) if tokenizer else None
        out = {"row": index, "sample": sample, "completion": text, "tokens": completion.tokens}
        out |= {"logprobs": completion.logprobs, "finished": completion.finished}
        jsonl.append_jsonl(output, [rows[index] | out])
    jsonl.sort_jsonl(output, ("row", "sample"))
