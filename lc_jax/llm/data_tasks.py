"""The questions to annotators that training data is made from (paper sections 3 and 4)."""

from __future__ import annotations

from lc_jax.llm.annotate import REASONING, AnnotationTask
from lc_jax.prompts import correctness, extract, forecast, paragraph, query, summarize


def data_tasks(reasoning: bool, text_order: bool) -> dict[str, AnnotationTask]:
    """Returns the questions to annotators; temperatures are the published ones where the paper gives them.

    Args:
      reasoning, text_order: how answers are read from paragraphs; see `extract.prompt`.
    """
    short, long = (REASONING, REASONING) if reasoning else (32, 200)
    extraction = extract.prompt(reasoning=reasoning, text_order=text_order)
    probability, verdict = forecast.prompt(reasoning=reasoning), correctness.prompt(reasoning=reasoning)
    return {
        "clue": AnnotationTask(query.CLUE, 0.3, 200, lambda fields: fields["question"]),
        "query": AnnotationTask(query.PROMPT, 0.3, 200, lambda fields: fields["question"]),
        "claude_distill": AnnotationTask(paragraph.PROMPT, 0.7, 512, lambda fields: ""),
        "summarize": AnnotationTask(summarize.PROMPT, 0.3, 512, lambda fields: ""),
        "extract": AnnotationTask(extraction, 0.2, long, lambda fields: ["an answer", "another answer"]),
        "forecast": AnnotationTask(probability, 0.2, short, lambda fields: 0.5),
        "correctness": AnnotationTask(verdict, 0.2, short, lambda fields: 0),
    }
