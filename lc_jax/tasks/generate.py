"""Decodes prompts: JSONL in, with one of `prompt`, `messages`, `prompt_tokens` or `paragraph_generation_prompt`.

`prompt` is plain text; `messages` go through the tokenizer's chat template; `prompt_tokens` are ids; and
`paragraph_generation_prompt` is put into the template that fine-tuned models are trained with (config.templates).
The same rows out with `completion`, `tokens`, `logprobs` and `finished`.
"""

from __future__ import annotations

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
from lc_jax.data.tokenizer import Tokenizer, load_templates_for, load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference.finite import check_finite
from lc_jax.models import hf, released
from lc_jax.preflight import NATURAL, POSITIVE_INT, check_all, check_sampling, check_settings
from lc_jax.prompts import Prompt
from lc_jax.provenance import fingerprint
from lc_jax.training import checks

RECORD = "{output}.run.json"
INPUTS = ("prompt_tokens", "messages", "prompt", "paragraph_generation_prompt")
SAMPLING = ("temperature", "top_p", "top_k")


def _encode(row: dict[str, Any], where: str, tokenizer: Tokenizer, template: Prompt) -> list[int]:
    """Returns the token ids of a row's prompt, from the first of INPUTS that it has."""
    name = next((name for name in INPUTS if row.get(name) is not None), None)
    if name is None:
        raise ValueError(f"{where}: give one of {list(INPUTS)}; the row has {sorted(row)}.")
    value = row[name]
    if name == "prompt_tokens":
        if value == []:
            raise ValueError(f"{where}: `prompt_tokens` is empty; a prompt needs at least one token.")
        return tokenizer.check_ids(value, where)
    if name == "messages":
        return tokenizer.encode_prompt(parse_messages(value, where), where)
    if not isinstance(value, str):
        raise ValueError(f"{where}: `{name}` must be text, not {type(value).__name__}.")
    return tokenizer.encode_prompt(template.prompt_text(**{name: value}) if name == INPUTS[-1] else value, where)


def _log_sampling(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """Logs the settings of this run that differ from those that the checkpoint recommends."""
    recommended = {name: tokenizer.generation.get(name) for name in SAMPLING}
    differing = {name: value for name, value in recommended.items() if value is not None and value != config[name]}
    if differing:
        theirs = ", ".join(f"{name} {value}" for name, value in differing.items())
        ours = ", ".join(f"{name} {config[name]}" for name in differing)
        logging.info("generation_config.json of %s recommends %s; this run uses %s", config.model, theirs, ours)


@memoise
def _load_prompts(source: str, model: str, templates: str, prompt_dir: str) -> tuple[Tokenizer, list[list[int]]]:
    """Loads the tokenizer of `model` and the token ids of each row's prompt in the file `source`.

    Raises:
      FileNotFoundError, ValueError: no such file or tokenizer, or a row without a prompt; the message names it.
    """
    placed = load_placed_rows(source)
    tokenizer = load_tokenizer(model, need_text=any(row.get("prompt_tokens") is None for _, row in placed))
    template = load_templates_for(model, templates, prompt_dir).paragraph
    return tokenizer, [_encode(row, str(place), tokenizer, template) for place, row in placed]


def check(config: ConfigDict) -> None:
    """Checks numbers, files, rows and folders, and reports all problems at once."""

    def model() -> None:
        if checks.check_model("model", config.model) is not None:
            _load_prompts(config.prompts, config.model, config.templates, config.prompt_dir)

    check_all(
        lambda: check_sampling(config),
        lambda: check_settings("", config, num_samples=POSITIVE_INT, top_k=NATURAL),
        lambda: load_placed_rows(config.prompts),
        lambda: checks.check_precision(**config.precision),
        model,
    )


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Writes `config.output`, each batch while the next one is computed; a rerun makes the missing completions.

    Raises:
      ValueError: a row has no prompt or ids without a row in the embedding, or the output was begun with other
        settings.
      FloatingPointError: the model computes numbers that are not finite.
    """
    placed = load_placed_rows(config.prompts)
    rows = [row for _, row in placed]
    tokenizer, prompts = _load_prompts(config.prompts, config.model, config.templates, config.prompt_dir)
    output = Path(config.output)
    names = ("model", "num_samples", "max_new_tokens", *SAMPLING, "seed")
    uses_template = any(row.get("paragraph_generation_prompt") is not None for row in rows)
    settings = {name: config[name] for name in (*names, *(("templates", "prompt_dir") if uses_template else ()))}
    if uses_template:
        templates = load_templates_for(config.model, config.templates, config.prompt_dir)
        released.warn_of_wording(config.model, templates.paragraph)
    settings |= {"prompts": fingerprint(rows), "prompt_ids": fingerprint(prompts)}  # ids: templates and tokenizer files
    existing = {(row["row"], row["sample"]) for row in jsonl.resume(output, settings)}
    todo = [(i, s) for i in range(len(rows)) for s in range(config.num_samples) if (i, s) not in existing]
    logging.info("%d completions to write, %d already in %s", len(todo), len(existing), output)
    _log_sampling(config, tokenizer)

    model = hf.load(config.model, mesh, **config.precision)
    sampling = generate.Sampling(
        config.max_new_tokens,
        config.temperature,
        config.top_p,
        config.top_k,
        eos_ids=tokenizer.stop_ids,
        pad_id=tokenizer.pad_id,
    )
    completions = generate.stream(
        model,
        [prompts[i] for i, _ in todo],
        sampling,
        seed=config.seed,
        batch_size=config.batch_size,
        row_ids=[i * config.num_samples + s for i, s in todo],
    )
    for place, completion in tqdm(completions, total=len(todo), unit="completion"):
        index, sample = todo[place]
        check_finite(completion.logprobs, config.model, str(placed[index][0]))
        text = tokenizer.decode(completion.tokens) if tokenizer.hf is not None else None
        out = {"row": index, "sample": sample, "completion": text, "tokens": completion.tokens}
        out |= {"logprobs": completion.logprobs, "finished": completion.finished}
        jsonl.append_jsonl(output, [rows[index] | out])
    jsonl.sort_jsonl(output, ("row", "sample"))
    unfinished = sum(not row["finished"] for row in jsonl.read_jsonl(output))
    logging.info(
        "Made %s: %d completions, %d of them cut off at --config.max_new_tokens=%d.",
        output, len(existing) + len(todo), unfinished, config.max_new_tokens,
    )  # fmt: skip
