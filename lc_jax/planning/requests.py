"""Requests of a stage to providers' models by annotation task, and their cost at list prices, at most."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

from ml_collections import ConfigDict

from lc_jax.evaluation import biography, qa
from lc_jax.evaluation.writers import MAX_TOKENS
from lc_jax.llm import capabilities, cost
from lc_jax.llm.annotate import AnnotationTask
from lc_jax.llm.capabilities import Capabilities, Price
from lc_jax.llm.cost import Estimate
from lc_jax.llm.data_tasks import data_tasks
from lc_jax.prompts import strategies
from lc_jax.types import Request, Usage

NUM_ANSWERS = 2  # that a paragraph offers
# Claims that a biography makes: the published interval of the share supported, half of it .0109 wide at .363, is that
# of 7,480 claims of 500 people.
NUM_CLAIMS = 15
_PARAGRAPH, _PASSAGE, _CLAIM = "x" * 900, "x" * 1100, "x" * 80
# Texts of ordinary length for the fields of prompts; those of others are as long as an answer.
_TEXTS = {
    "generated_paragraph": _PARAGRAPH,
    "paragraphs": _PARAGRAPH * 8,
    "comparisons": _PARAGRAPH,
    "passages": _PASSAGE * 5,
    "statements": _CLAIM * NUM_CLAIMS,
    "claim": _CLAIM,
    "paragraph_generation_prompt": _CLAIM,
}
_ANSWER = "an answer"
# Requests for each row of what lc_jax/tasks/generate_data.py makes.
_DATA = {
    "queries": {"query": 1.0},
    "summaries": {"summarize": 1.0},
    "claude_distill": {"claude_distill": 1.0},
    "forecasts": {"extract": 1.0, "forecast": 1.0 + NUM_ANSWERS},
    "correctness": {"correctness": 1.0},
}


@dataclasses.dataclass(frozen=True)
class TaskRequests:
    """The requests of one annotation task."""

    settings: Mapping[str, Any]  # of the annotator, as in `session.open_configured`
    task: AnnotationTask
    per_row: float  # requests for each question, entity or row


def requests_of(config: ConfigDict) -> list[TaskRequests]:
    """Returns the requests of a stage for each of its rows, by annotation task; [] where it makes none."""
    sure = float(config.get("uses_confidence", True))
    counts: Mapping[str, float]
    if config.task == "generate_data":
        tasks = data_tasks(**config.wording)
        counts = _DATA.get(config.what, {})
    elif config.task == "evaluate_qa":
        tasks = qa.Protocol.from_settings(config).tasks()
        counts = {"eval_extract": 1.0, "eval_forecast": NUM_ANSWERS * sure, "equivalence": 0.1}
    elif config.task == "evaluate_biography":
        tasks = biography.tasks(config.judge_temperature)
        counts = {"claims": 1.0, "confidence": sure, "support": float(NUM_CLAIMS)}
    else:
        return []
    roles = config.get("annotators") or {}
    requests = []
    if config.get("writer") and config.writer.name:
        prompt = strategies.load(config.strategy, config.templates, checkpoint=False)
        task = AnnotationTask(prompt, config.temperature, MAX_TOKENS, lambda fields: "")
        requests.append(TaskRequests(config.writer, task, 1.0))
    for name, count in counts.items():
        own = roles.get(tasks[name].role) or {}
        if count:
            requests.append(TaskRequests(own if own.get("name") else config.annotator, tasks[name], count))
    return requests


def estimates(config: ConfigDict, num_rows: int) -> list[Estimate]:
    """Returns an estimate for each annotation task of a stage that works through `num_rows` rows."""
    return [_estimate(item, num_rows) for item in requests_of(config)]


def _estimate(item: TaskRequests, num_rows: int) -> Estimate:
    name, task = item.settings["name"], item.task
    able = capabilities.of(name) or Capabilities()
    fields = {field: _TEXTS.get(field, _ANSWER) for field in task.prompt.fields}
    request = Request(task.prompt.render(**fields), task.temperature, task.max_tokens, schema=task.prompt.schema)
    each, calls = cost.max_usage(request, able), round(item.per_row * num_rows)
    price = Price(*item.settings["price"]) if item.settings.get("price") else able.price
    return Estimate(name, calls, 0, Usage(calls * each.input_tokens, calls * each.output_tokens), price)


@dataclasses.dataclass(frozen=True)
class Bill:
    """Requests of a stage, and dollars at most; NaN where a price is unknown."""

    calls: int = 0
    dollars: float = 0.0
    batch: float = 0.0  # where the provider's batch endpoint answers

    @classmethod
    def of(cls, config: ConfigDict, num_rows: int) -> Self:
        """Returns the bill of a stage that works through `num_rows` questions, entities or rows."""
        costs = estimates(config, num_rows)
        return cls(sum(e.calls for e in costs), dollars(costs), dollars(costs, batch=True))

    def __add__(self, other: Bill) -> Bill:
        return Bill(self.calls + other.calls, self.dollars + other.dollars, self.batch + other.batch)


def dollars(costs: list[Estimate], *, batch: bool = False) -> float:
    """Returns what requests cost at most; NaN where a price is unknown."""
    prices = [estimate.dollars(batch=batch) for estimate in costs]
    return math.fsum(math.nan if price is None else price for price in prices)
