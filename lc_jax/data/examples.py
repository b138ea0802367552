"""Training examples from rows of the published columns, and their token ids (paper sections 4.1, 4.2)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from lc_jax.data.cells import (
    Dropped,
    demonstration_in,
    id_in,
    label_in,
    list_in,
    number_in,
    question_in,
    text_in,
)
from lc_jax.data.columns import column, is_missing, names_of
from lc_jax.data.questions import load_training_rows, suggest
from lc_jax.data.rows import Row, optional, place_of
from lc_jax.prompts import Prompt, Templates, join_answers
from lc_jax.types import Example

if TYPE_CHECKING:
    from lc_jax.data.tokenizer import Tokenizer

PLACE = "{confidence}"  # of the number in a completion that states one
MAX_PARAGRAPH = 2000  # characters of a paragraph in a reward model's prompt
Fits = Callable[[str], bool]  # whether a prompt is short enough for its model


# --- one row -> its examples -----------------------------------------------------------------------------------------


def _answers_and_probs(row: Row) -> tuple[list[Any], list[Any]]:
    answers = list_in(row, "lc_sft_ground_truth_and_extracted_answers")
    probs = list_in(row, "lc_sft_forecasted_probs")
    if len(answers) != len(probs):
        raise Dropped("answers and probabilities of unequal length")
    if not answers:
        raise Dropped("no answers")
    if any(isinstance(answer, (list, tuple)) for answer in answers):
        raise Dropped("an answer is not text")
    return answers, probs


def cut_paragraph(
    prompt: Prompt, fields: Mapping[str, str], fits: Fits | None = None, limit: int | None = MAX_PARAGRAPH
) -> str:
    """Renders a reader's prompt, its paragraph truncated so that the prompt fits; question and answer are never cut.

    Training and reinforcement learning both call this, so that the reward model is used on prompts like its own.
    Reference: data_preprocessor.py:format_prompt (the limit of characters).

    Args:
      fields: the prompt's fields, `generated_paragraph` among them.
      fits: whether a rendered prompt is short enough for the model; None = always.
      limit: maximum characters of the paragraph; None = all.

    Raises:
      ValueError: the prompt does not fit even without a paragraph.
    """
    paragraph = fields["generated_paragraph"][:limit]

    def render(length: int) -> str:
        return prompt.render(**{**fields, "generated_paragraph": paragraph[:length]})

    if fits is None or fits(render(len(paragraph))):
        return render(len(paragraph))
    if not fits(render(0)):
        raise ValueError(f"Question and answer alone exceed the model's window: {fields.get('question', '')[:60]!r}")
    low, high = 0, len(paragraph)  # binary search: `low` characters fit, `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(render(middle)) else (low, middle)
    return render(low)


def _reader_prompt(
    prompt: Prompt, fields: Mapping[str, str], fits: Fits | None, limit: int | None = MAX_PARAGRAPH
) -> str:
    try:
        return cut_paragraph(prompt, fields, fits, limit)
    except ValueError as error:
        raise Dropped("question and answer exceed the window") from error


def _sft(row: Row, templates: Templates, target: Any, column: str) -> list[Example]:
    if is_missing(target):
        raise Dropped(f"missing {column}")
    prompt = text_in(row, "paragraph_generation_prompt")
    return [Example(id_in(row), templates.paragraph.prompt_text(paragraph_generation_prompt=prompt), str(target))]


def _sft_lc(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes q -> the summary of several paragraphs."""
    return _sft(row, templates, column(row, "claude_summary"), "claude_summary")


def _sft_factuality(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes q -> the first of the sampled paragraphs."""
    paragraphs = list_in(row, "icl_generated_paragraphs")
    return _sft(row, templates, paragraphs[0] if paragraphs else None, "icl_generated_paragraphs")


def _sft_claude_distill(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes q -> the annotator's own paragraph."""
    return _sft(row, templates, column(row, "claude_generated_paragraph"), "claude_generated_paragraph")


def _extract_answers(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes (x, z) -> the extracted answers without the first, the true one. One empty entry drops the row."""
    answers, probs = _answers_and_probs(row)
    if any(is_missing(entry) for entry in answers + probs):
        raise Dropped("an answer or a probability is missing")
    fields = {
        "generated_paragraph": text_in(row, "lc_sft_generated_paragraph"),
        "question": question_in(row).question,
    }
    prompt = _reader_prompt(templates.extract_answers, fields, fits, limit=None)
    return [Example(id_in(row), prompt, join_answers([str(answer) for answer in answers[1:]]))]


def _forecast_probs(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes (x, z, answer) -> probability, for the true and each extracted answer. An empty entry drops one answer."""
    answers, probs = _answers_and_probs(row)
    paragraph, question = text_in(row, "lc_sft_generated_paragraph"), question_in(row).question
    examples = []
    for answer, prob in zip(answers, probs, strict=True):
        if is_missing(answer) or is_missing(prob):
            continue
        label = number_in(prob)
        if not 0.0 <= label <= 1.0:
            raise Dropped("a probability outside [0, 1]")
        fields = {"generated_paragraph": paragraph, "question": question, "answer": str(answer)}
        examples.append(Example(id_in(row), _reader_prompt(templates.forecast_probs, fields, fits), label=label))
    if not examples:
        raise Dropped("no answer with a probability")
    return examples


def _factuality(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes (x, z, y) -> 0 or 1."""
    label = number_in(text_in(row, "factuality_sft_binary_correctness"))
    if label not in (0.0, 1.0):
        raise Dropped("factuality_sft_binary_correctness is neither 0 nor 1")
    question = question_in(row)
    fields = {
        "generated_paragraph": text_in(row, "factuality_sft_generated_paragraph"),
        "question": question.question,
        "answer": question.answer,
    }
    return [Example(id_in(row), _reader_prompt(templates.factuality, fields, fits), label=label)]


def _demonstration(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes a text or conversation, verbatim -> the completion, or the assistant's last message."""
    prompt, target = demonstration_in(row)
    return [Example(id_in(row), prompt, target)]


def _labelled(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes prompt and answer, verbatim, or ForecastProbs' prompt of paragraph, question and answer -> the label."""
    label = label_in(row)
    if is_missing(column(row, "generated_paragraph")):
        return [Example(id_in(row), text_in(row, "prompt") + text_in(row, "answer"), label=label)]
    question = question_in(row)
    paragraph = text_in(row, "generated_paragraph")
    fields = {"generated_paragraph": paragraph, "question": question.question, "answer": question.answer}
    return [Example(id_in(row), _reader_prompt(templates.forecast_probs, fields, fits), label=label)]


def _stated_confidence(row: Row, templates: Templates, fits: Fits | None) -> list[Example]:
    """Makes a prompt, verbatim -> a completion with one PLACE for the stated number, with its outcome as the label."""
    prompt, target = demonstration_in(row)
    if target.count(PLACE) != 1:
        raise Dropped(f"the completion has {target.count(PLACE)} places {PLACE}: give one")
    return [Example(id_in(row), prompt, target, label=label_in(row))]


RECIPES: dict[str, Callable[[Row, Templates, Fits | None], list[Example]]] = {
    "sft_lc": _sft_lc,
    "sft_factuality": _sft_factuality,
    "sft_claude_distill": _sft_claude_distill,
    "extract_answers": _extract_answers,
    "forecast_probs": _forecast_probs,
    "factuality": _factuality,
    "demonstrations": _demonstration,  # a user's own rows
    "labelled_answers": _labelled,
    "stated_confidence": _stated_confidence,
}
# Columns that users' own rows must have, for messages.
_REQUIRED_COLUMNS = {
    "demonstrations": ("prompt", "completion"),
    "labelled_answers": ("prompt", "answer", "label"),
    "stated_confidence": ("prompt", "completion", "label"),
}

# Recipes whose models are prompted with Templates.paragraph.
PARAGRAPH_RECIPES = ("sft_lc", "sft_factuality", "sft_claude_distill")


class Drops(Counter[str]):
    """Numbers of rows that make no example, by reason."""

    def __init__(self) -> None:
        super().__init__()
        self.first_rows: dict[str, int] = {}  # reason -> the first such row, from 0

    def add(self, reason: str, row: int) -> None:
        """Counts a row."""
        self[reason] += 1
        self.first_rows.setdefault(reason, row)

    def describe(self, rows: Mapping[str, Any]) -> str:
        """Returns the reasons with their counts and first rows, the most frequent first.

        Args:
          rows: the arguments of `load_training_rows`.
        """
        parts = []
        for reason, count in (+self).most_common():
            where = ""
            if reason in self.first_rows:
                where = f", first in {place_of(rows['source'], optional(rows.get('split')), self.first_rows[reason])}"
            parts.append(f"{reason}: {count}{where}")
        return "; ".join(parts)


def make_examples(
    recipe: str, rows: Iterable[Row], templates: Templates, fits: Fits | None = None
) -> tuple[list[Example], Drops]:
    """Makes the training examples of all rows, in order; returns them and the numbers of rows dropped by reason.

    Args:
      recipe: a name in RECIPES.
      rows: the published columns; for the readers' data joined with question and answer (see questions.join).
      fits: whether a reader's prompt fits its model (see Tokenizer.fits); its paragraph is truncated until it does.

    Raises:
      ValueError: an unknown recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"No recipe {recipe!r}; there are {sorted(RECIPES)}.")
    examples: list[Example] = []
    dropped = Drops()
    for number, row in enumerate(rows):
        try:
            examples += RECIPES[recipe](row, templates, fits)
        except Dropped as reason:
            dropped.add(str(reason), number)
    return examples, dropped


def load_examples(
    data: Mapping[str, Any], templates: Templates, fits: Fits | None = None
) -> tuple[list[Example], Drops]:
    """Loads the rows of a data set and makes their examples, at least one.

    Args:
      data: `recipe`, and under `rows` the arguments of `load_training_rows`.

    Raises:
      ValueError: an unknown recipe, or no row makes an example; the message lists the reasons and columns.
    """
    rows, recipe = load_training_rows(**data["rows"]), data["recipe"]
    examples, dropped = make_examples(recipe, rows, templates, fits)
    if not examples:
        names = names_of(rows)
        missing = [name for name in _REQUIRED_COLUMNS.get(recipe, ()) if name not in names]
        helps = missing and any(reason.startswith("missing") for reason in dropped)  # a wrong value needs no name
        flag = f" Name yours with --config.data.rows.columns={suggest(names, missing)}." if helps else ""
        reasons = dropped.describe(data["rows"])
        raise ValueError(
            f"{data['rows']['source']}: no row makes an example of {recipe!r} ({reasons}); columns: {names}.{flag}"
        )
    return examples, dropped


# --- examples -> two sets, examples -> token ids ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Split:
    """Training and evaluation sets without a common question, each in the order of its examples."""

    train: list[Example]
    evaluation: list[Example]


def split_by_question(
    examples: Sequence[Example], eval_size: int, seed: int, ids: Iterable[str] | None = None
) -> Split:
    """Splits by question: shuffles the distinct ids with `seed`; the last `eval_size` of them are the evaluation set.

    Reference: data_utils.py, the stratified split. Differs: ids are made distinct first, so that an id of several rows
    cannot be in both sets, and eval_size 0 evaluates nothing.

    Args:
      ids: the ids to shuffle, if not those of `examples`. The published split was made before rows were dropped, so
        only the ids of all rows, in order, reproduce it.

    Raises:
      ValueError: `eval_size` leaves nothing to train on.
    """
    order = list(dict.fromkeys(ids if ids is not None else (example.example_id for example in examples)))
    if not 0 <= eval_size < max(len(order), 1):
        raise ValueError(f"eval_size {eval_size} must be less than the number of distinct questions, {len(order)}.")
    np.random.RandomState(seed).shuffle(order)
    held_out = set(order[len(order) - eval_size :])
    return Split(
        [example for example in examples if example.example_id not in held_out],
        [example for example in examples if example.example_id in held_out],
    )


def load_split(data: Mapping[str, Any], templates: Templates, fits: Fits | None, seed: int) -> tuple[Split, Drops]:
    """Loads and splits the examples of a data set; returns the split and the numbers of dropped rows.

    Args:
      data: as in `load_examples`, with `eval_size`.
    """
    examples, dropped = load_examples(data, templates, fits)
    ids = (row["question_id"] for row in load_training_rows(**data["rows"]))
    return split_by_question(examples, data["eval_size"], seed, ids), dropped


def report_sizes(data: Mapping[str, Any], num_train: int, num_held_out: int, dropped: Drops) -> None:
    """Logs the numbers of examples and, as a warning, of dropped rows with reasons and places.

    Raises:
      ValueError: no example is left to train on.
    """
    logging.info("%d training and %d held-out examples", num_train, num_held_out)
    reasons = dropped.describe(data["rows"])
    if not num_train:
        raise ValueError(f"{data['rows']['source']}: no example is left to train on ({reasons or 'all are held out'}).")
    if reasons:
        logging.warning("%s: rows that are left out: %s", data["rows"]["source"], reasons)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids of one example."""

    tokens: tuple[int, ...]
    num_source: int  # number of prompt tokens, which the loss leaves out


def encode_sft(tokenizer: Tokenizer, example: Example, max_length: int) -> Encoded | None:
    """Encodes prompt, target and end token as one text, truncated to `max_length`; None if no target token remains.

    Reference: data_preprocessor.py:preprocess_for_sft. Differs: rows without a label are dropped; a token that spans
    prompt and target is trained (see Tokenizer.encode_pair).

    Raises:
      ValueError: an id has no row in the embedding; the message names the example.
    """
    where = f"example {example.example_id!r}"
    if example.target:
        ids, num_source = tokenizer.encode_pair(example.prompt, example.target, where)
    else:  # the published data have such rows: they train the end-of-sequence token alone
        ids = tokenizer.encode_prompt(example.prompt, where)
        num_source = len(ids)
    tokens = (*ids, tokenizer.end_id(example.prompt))[:max_length]
    return Encoded(tokens, num_source) if num_source < len(tokens) else None


def encode_all(tokenizer: Tokenizer, examples: Sequence[Example], max_length: int) -> list[Encoded]:
    """Encodes examples; those whose prompt leaves no room for a target are left out."""
    encoded = (encode_sft(tokenizer, example, max_length) for example in examples)
    return [row for row in encoded if row is not None]
