"""Small data sets in exactly the form of the published ones, holes included, about the miniature world's cities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from lc_jax.miniature import text, world
from lc_jax.types import Question

CALIBRATION, TRIVIA_QA, SCIQ = "tatsu-lab/linguistic_calibration", "mandarjoshi/trivia_qa", "allenai/sciq"
JEOPARDY, BIOASQ = "jeopardy.json", "bioasq.json"  # the local files
SIZES = {"sft": 64, "ppo": 48, "ppo_validation": 6, "reward_model": 64, "validation": 6, "test": 6}
NUM_TEST = 6
Rows = list[dict[str, Any]]


class World:
    """The questions of every split and data set; no question is in two of them."""

    def __init__(self) -> None:
        remaining = iter(_questions())
        self.splits = {name: [next(remaining) for _ in range(size)] for name, size in SIZES.items()}
        self.tests = {name: [next(remaining) for _ in range(NUM_TEST)] for name in ("jeopardy", "sciq", "bioasq")}

    def texts(self) -> Iterator[str]:
        """All texts, for a tokenizer to learn from."""
        for questions in (*self.splits.values(), *self.tests.values()):
            for q in questions:
                yield from (q.prompt, q.question, paragraph(q), summary(q))


def write_data(root: Path, files: Path) -> World:
    """Writes the hub's data sets under `root`/datasets and the local files into `files`."""
    world = World()
    _write_calibration(root / "datasets" / CALIBRATION, world)
    trivia = root / "datasets" / TRIVIA_QA
    train = [q for name, questions in world.splits.items() if name != "test" for q in questions]
    tables = {"train": map(trivia_row, train), "validation": map(trivia_row, world.splits["test"])}
    _write_config(trivia, "unfiltered.nocontext", tables)
    _write_card(trivia, {"unfiltered.nocontext": list(tables)})
    sciq = [
        {"question": q.question, "distractor3": "a", "distractor1": "b", "distractor2": "c",
         "correct_answer": q.answer, "support": ""}
        for q in world.tests["sciq"]
    ]  # fmt: skip
    _write_config(root / "datasets" / SCIQ, "default", {"train": sciq[:2], "validation": sciq[2:4], "test": sciq[4:]})
    _write_card(root / "datasets" / SCIQ, {"default": ["train", "validation", "test"]})
    jeopardy = [
        {"category": "CITIES", "air_date": "2004-12-31", "question": f"'{q.question}'", "value": "$200",
         "answer": q.answer, "round": "Jeopardy!", "show_number": "4680"}
        for q in world.tests["jeopardy"]
    ]  # fmt: skip
    (files / JEOPARDY).write_text(json.dumps(jeopardy))
    bioasq = [
        {"id": q.question_id, "type": "factoid", "body": q.question, "exact_answer": [[q.answer, q.answer.upper()]],
         "documents": [], "snippets": [], "ideal_answer": [q.answer]}
        for q in world.tests["bioasq"]
    ]  # fmt: skip
    (files / BIOASQ).write_text(json.dumps({"questions": bioasq}))
    return world


def _questions() -> Iterable[Question]:
    """One question a city, so that no city is in two splits, with the published form of prompts."""
    for number, subject in enumerate(world.build().subjects):
        q = subject.question(subject.facts[number % 3])
        prompt = f"Write a paragraph about the {subject.facts[number % 3].kind} of {subject.description}."
        yield Question(f"tc_{number}", prompt, q.question, q.answer, (q.answer.upper(),))


def paragraph(q: Question) -> str:
    """A plain paragraph."""
    return text.plain({_kind(q): q.answer})


def summary(q: Question) -> str:
    """A paragraph that states its confidence."""
    return text.hedged({_kind(q): [(q.answer, 70), ("Nowhere", 30)]})


def _kind(q: Question) -> str:
    return next(kind for kind, question in world.QUESTIONS.items() if q.question.startswith(question[:8]))


def trivia_row(q: Question) -> dict[str, Any]:
    """A row of TriviaQA."""
    answer = {"aliases": [q.answer, *q.aliases], "normalized_aliases": [q.answer.lower()], "value": q.answer,
              "normalized_value": q.answer.lower(), "type": "WikipediaEntity", "matched_wiki_entity_name": "",
              "normalized_matched_wiki_entity_name": ""}  # fmt: skip
    return {"question": q.question, "question_id": q.question_id, "question_source": "", "answer": answer}


def _sft_row(number: int, q: Question) -> dict[str, Any]:
    several = None if number == 1 else "not a list" if number == 2 else repr([paragraph(q)] * 8)
    return {
        "question_id": q.question_id,
        "paragraph_generation_prompt": q.prompt,
        "claude_summary": None if number == 0 else summary(q),
        "icl_generated_paragraphs": several,
        "claude_generated_paragraph": None if number == 3 else paragraph(q),
    }


def _reward_row(number: int, q: Question) -> dict[str, Any]:
    answers, probs = [q.answer, q.answer, "Nowhere"], [0.7, 0.7, 0.3]
    if number == 0:
        probs = probs[:2]
    if number == 1:
        answers, probs = [q.answer], [0.0]  # nothing was extracted
    return {
        "question_id": q.question_id,
        "lc_sft_generated_paragraph": None if number == 2 else summary(q),
        "lc_sft_ground_truth_and_extracted_answers": None if number == 3 else repr(answers),
        "lc_sft_forecasted_probs": "[0.7, nan, 0.3]" if number == 4 else repr(probs),
        "factuality_sft_generated_paragraph": None if number == 5 else paragraph(q),
        "factuality_sft_binary_correctness": None if number == 6 else float(number % 2),
    }


def _write_calibration(folder: Path, world: World) -> None:
    splits = {name: {"train": [row(i, q) for i, q in enumerate(world.splits[source])]}
              for name, source, row in (("sft_training", "sft", _sft_row),
                                        ("reward_model_training", "reward_model", _reward_row))}  # fmt: skip
    names = ("ppo", "ppo_validation", "reward_model", "validation", "test")
    splits["trivia_qa_paragraph_generation"] = {name: _prompts(world.splits[name]) for name in names}
    for name, questions in world.tests.items():
        prompts = _prompts(questions)
        if name != "bioasq":  # joined by the row's index
            kind = int if name == "sciq" else str
            prompts = [row | {"question_id": kind(index)} for index, row in enumerate(prompts)]
        splits[f"{name}_paragraph_generation"] = {"test": prompts}
    for name, tables in splits.items():
        _write_config(folder, name, tables)
    _write_card(folder, {name: list(tables) for name, tables in splits.items()})


def _prompts(questions: Iterable[Question]) -> Rows:
    return [{"question_id": q.question_id, "paragraph_generation_prompt": q.prompt} for q in questions]


def _write_config(folder: Path, name: str, tables: dict[str, Iterable[dict[str, Any]]]) -> None:
    (folder / name).mkdir(parents=True)
    for split, rows in tables.items():
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / name / f"{split}-00000-of-00001.parquet")


def _write_card(folder: Path, splits: dict[str, list[str]]) -> None:
    """The card names the configurations and their files."""
    lines = ["---", "configs:"]
    for name, names in splits.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split in names:
            lines += [f"  - split: {split}", f"    path: {name}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "A card.", ""]))
