"""Evaluates a checkpoint on questions: it writes paragraphs, an annotator reads and judges them (paper section 6).

Leaves `records.jsonl` (one row a question) and `result.json` (accuracy and calibration) in the output folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from lc_jax import llm, prompts
from lc_jax.data import examples, jsonl
from lc_jax.data.questions import load_questions
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.evaluation import metrics, qa, table
from lc_jax.inference import generate
from lc_jax.models import folders, hf
from lc_jax.types import Generation


def write_paragraphs(config: ConfigDict, mesh: jax.sharding.Mesh, questions: list) -> list[Generation]:
    """One paragraph a question from `config.model`, kept in `<output>/paragraphs.jsonl` so that a rerun goes on."""
    path = Path(config.output) / "paragraphs.jsonl"
    done = {row["question_id"]: row["paragraph"] for row in jsonl.repair(path)}
    todo = [q for q in questions if q.question_id not in done]
    if todo:
        tokenizer = load_tokenizer(config.model)
        template = prompts.load_templates(config.templates, config.prompt_dir).paragraph
        encoded = [
            examples.encode_prompt(tokenizer, template.render(paragraph_generation_prompt=q.prompt)) for q in todo
        ]
        model = hf.load(config.model, mesh, **config.precision)
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        sampling = generate.Sampling(config.max_new_tokens, config.temperature, eos_ids=(eos,), pad_id=pad)
        for i, completion in generate.stream(model, encoded, sampling, seed=config.seed, batch_size=config.batch_size):
            text = tokenizer.decode(completion.tokens, skip_special_tokens=True)
            done[todo[i].question_id] = text
            jsonl.append_jsonl(path, [{"question_id": todo[i].question_id, "paragraph": text}])
    return [Generation(q, done[q.question_id]) for q in questions]


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Evaluates `config.model` on `config.questions` with the reader `config.annotator`."""
    folders.check(config.model)
    annotator = llm.load(config.annotator)
    questions = load_questions(**config.questions, limit=config.limit or None)
    generations = write_paragraphs(config, mesh, questions)
    records = qa.evaluate(generations, annotator, uses_confidence=config.uses_confidence)
    output = Path(config.output)
    jsonl.write_jsonl(output / "records.jsonl", map(dataclasses.asdict, records))
    scored = [r for r in records if r.status == "ok"]
    statuses = dict(Counter(r.status for r in records))
    if not scored:
        raise ValueError(f"No question of {config.questions} could be judged ({statuses}); see {output}/records.jsonl.")
    summary = metrics.summarize(
        [r.confidence for r in scored], [r.correct for r in scored], [r.kind for r in scored], seed=config.seed
    )
    row = {
        "method": config.method,
        "seed": config.seed,
        "judge": annotator.name,
        "data": f"{config.questions.source} {config.questions.split}",
    }
    row |= dataclasses.asdict(summary) | {"statuses": statuses}
    (output / "result.json").write_text(json.dumps(row, indent=1))
    logging.info("\n%s", table.render([row]))
