"""Makes training data from questions, one column family at a time, in the published columns (paper section 4).

  paragraphs   questions -> `icl_generated_paragraphs` (M samples), or one paragraph in the column that is named
  summaries    + `claude_summary`: the annotator merges the M paragraphs into one that states its confidence
  forecasts    + `lc_sft_ground_truth_and_extracted_answers`, `lc_sft_forecasted_probs`
  correctness  + `factuality_sft_binary_correctness`

Rows that the annotator could not do keep a missing value, which the training recipes drop with a count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict
from tqdm import tqdm

from lc_jax import llm, prompts
from lc_jax.data import examples, jsonl
from lc_jax.data.questions import load_questions
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.llm.annotate import Annotation, annotate, counts
from lc_jax.models import hf
from lc_jax.prompts import correctness, extract, forecast, summarize
from lc_jax.types import Question

Row = dict[str, Any]
MAX_TOKENS = 512  # of an annotator's reply


def paragraphs(config: ConfigDict, mesh: jax.sharding.Mesh, questions: Sequence[Question], rows: list[Row]) -> None:
    """Samples `num_samples` paragraphs a question from `config.model`, cut at the first blank line.

    Goes into `config.column`: a list, or the one paragraph when num_samples is 1.
    """
    tokenizer = load_tokenizer(config.model)
    template = prompts.load_templates(config.templates).paragraph
    encoded = [
        examples.encode_prompt(tokenizer, template.render(paragraph_generation_prompt=q.prompt))
        for q in questions
        for _ in range(config.num_samples)
    ]
    model = hf.load(config.model, mesh, **config.precision)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    sampling = generate.Sampling(config.max_new_tokens, config.temperature, eos_ids=(eos,), pad_id=pad)
    stream = generate.stream(model, encoded, sampling, seed=config.seed, batch_size=config.batch_size)
    texts = [""] * len(encoded)
    for i, completion in tqdm(stream, total=len(encoded), unit="paragraph"):
        texts[i] = tokenizer.decode(completion.tokens, skip_special_tokens=True).strip().split("\n\n")[0]
    for n, row in enumerate(rows):
        samples = texts[n * config.num_samples : (n + 1) * config.num_samples]
        row[config.column] = samples if config.num_samples > 1 else samples[0]


def _ask(config: ConfigDict, prompt: prompts.Prompt, fields: Sequence[Row]) -> list[Annotation]:
    annotator = llm.load(config.annotator)
    found = list(annotate(annotator, prompt, fields, temperature=config.temperature, max_tokens=MAX_TOKENS))
    logging.info("%s answered %d requests: %s", annotator.name, len(found), counts(found))
    return found


def summaries(config: ConfigDict, mesh: jax.sharding.Mesh, questions: Sequence[Question], rows: list[Row]) -> None:
    """Summary distillation: the consensus of the sampled paragraphs, with percentages."""
    fields = [
        {
            "paragraph_generation_prompt": q.prompt,
            "paragraphs": summarize.join_paragraphs(row["icl_generated_paragraphs"]),
        }
        for q, row in zip(questions, rows, strict=True)
    ]
    for row, annotation in zip(rows, _ask(config, summarize.PROMPT, fields), strict=True):
        row["claude_summary"] = annotation.value


def forecasts(config: ConfigDict, mesh: jax.sharding.Mesh, questions: Sequence[Question], rows: list[Row]) -> None:
    """Every answer that a paragraph offers, then a probability for the true answer (first) and for each of them."""
    fields = [
        {"generated_paragraph": row["lc_sft_generated_paragraph"], "question": q.question}
        for q, row in zip(questions, rows, strict=True)
    ]
    extracted = _ask(config, extract.PROMPT, fields)
    asked = [(i, q.answer) for i, q in enumerate(questions) if extracted[i].status == "ok"]
    asked += [(i, answer) for i, found in enumerate(extracted) for answer in found.value or []]
    probs = _ask(config, forecast.PROMPT, [fields[i] | {"answer": answer} for i, answer in asked])
    for row in rows:
        row |= {"lc_sft_ground_truth_and_extracted_answers": [], "lc_sft_forecasted_probs": []}
    for (i, answer), prob in zip(asked, probs, strict=True):  # the true answers come first
        rows[i]["lc_sft_ground_truth_and_extracted_answers"].append(answer)
        rows[i]["lc_sft_forecasted_probs"].append(prob.value)


def correctnesses(config: ConfigDict, mesh: jax.sharding.Mesh, questions: Sequence[Question], rows: list[Row]) -> None:
    """Whether a reader of the paragraph would give the true answer: 1 or 0."""
    fields = [
        {
            "generated_paragraph": row["factuality_sft_generated_paragraph"],
            "question": q.question,
            "answer": q.answer,
        }
        for q, row in zip(questions, rows, strict=True)
    ]
    for row, annotation in zip(rows, _ask(config, correctness.PROMPT, fields), strict=True):
        row["factuality_sft_binary_correctness"] = annotation.value


STAGES: dict[str, Callable[[ConfigDict, jax.sharding.Mesh, Sequence[Question], list[Row]], None]] = {
    "paragraphs": paragraphs,
    "summaries": summaries,
    "forecasts": forecasts,
    "correctness": correctnesses,
}


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Adds the columns of `config.what` to the rows of `config.input` (default: bare questions).

    Raises:
      ValueError: `config.what` is unknown, or a row of `config.input` belongs to no question.
    """
    if config.what not in STAGES:
        raise ValueError(f"--config.what={config.what!r}: give one of {sorted(STAGES)}.")
    output = Path(config.output)
    if output.exists():
        logging.info("%s is there already; remove it to make it anew", output)
        return
    by_id = {q.question_id: q for q in load_questions(**config.questions, limit=config.limit or None)}
    if config.input:
        rows = jsonl.read_jsonl(Path(config.input))
    else:
        rows = [{"question_id": q.question_id, "paragraph_generation_prompt": q.prompt} for q in by_id.values()]
    unknown = [row["question_id"] for row in rows if row["question_id"] not in by_id]
    if unknown:
        raise ValueError(
            f"{config.input}: question_id {unknown[0]!r} (and {len(unknown) - 1} more) not among the questions."
        )
    STAGES[config.what](config, mesh, [by_id[row["question_id"]] for row in rows], rows)
    jsonl.write_jsonl(output, rows)
    logging.info(
        "%d rows, columns %s: %s", len(rows), dict(Counter(k for r in rows for k in r if r[k] is not None)), output
    )
