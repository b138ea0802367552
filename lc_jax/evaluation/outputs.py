"""Output folder of an evaluation, of questions or of biographies: records.jsonl and the row of result.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from lc_jax.data import jsonl
from lc_jax.evaluation import biography, qa
from lc_jax.evaluation.summary import Summary
from lc_jax.evaluation.writers import Writer
from lc_jax.llm import cost
from lc_jax.llm.annotate import AnnotationTasks
from lc_jax.provenance import code_version

UNREAD_SHARE = 0.9  # of texts in which the reader finds nothing, from which on a result warns


def write_records(
    folder: str | Path, records: Sequence[qa.Record] | Sequence[biography.Record], costs: cost.Costs
) -> None:
    """Writes records.jsonl into `folder`, before anything can reject the records, and logs what they cost."""
    jsonl.write_jsonl(Path(folder) / "records.jsonl", map(dataclasses.asdict, records))
    logging.info("\n%s", cost.render(costs))


def unread_notes(reader: str, unit: str, num_unread: int, num_texts: int, texts: str) -> tuple[str, ...]:
    """Returns a warning where the reader finds nothing in (nearly) all texts, and logs it; () otherwise.

    Args:
      reader: name of the annotator.
      unit: of what it looks for ("answer").
      num_unread: texts without any, of `num_texts`.
      texts: their kind ("paragraphs").
    """
    if num_unread < max(UNREAD_SHARE * num_texts, 1):
        return ()
    words = (
        f"the reader {reader} found no {unit} in {num_unread} of {num_texts} {texts}: they are probably of another "
        "kind than it expects (simulated/miniature reads its own world's sentences only), or in another column"
    )
    logging.warning("%s", words)
    return (words,)


def result_row(
    summary: Summary,
    statuses: Mapping[str, int],
    writer: Writer,
    tasks: AnnotationTasks,
    *,
    names: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the row of results: metrics, counts of statuses, what the run cost, and what the numbers depend on.

    Args:
      tasks: the questions that annotators were asked; the names of annotators and the wordings come from them.
      names: `method`, `data` and `seed`.
      settings: on which the numbers depend, besides the writer's own and the wordings.
    """
    meter = tasks.session.meter
    return {
        **names,
        "judge": tasks.annotators(),
        **dataclasses.asdict(summary),
        "statuses": dict(statuses),
        "cost": {"dollars": meter.dollars, "calls": meter.calls},
        "settings": {
            "writer": writer.name,
            **writer.sampling(),
            **settings,
            "prompts": tasks.prompt_hashes(),
            "code": code_version(),
        },
    }
