"""Wordings from a folder of text files under the published names, in place of ours.

A file may be in the published subfolder or directly in the folder. Doubled braces are braces, as str.format has it.
Marks of turns (Human:, <|im_start|>) and a turn that a file opens for the assistant are left out: models of today take
none. Replies are read in the form that the published wordings ask for (PARSERS): reasoning first, labels, headings.

Reference: auto_annotations/prompt_processing_utils.py. Differs: a reply is read as data, never run as Python, and its
values are checked as those of our own prompts are.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lc_jax.prompts import correctness, equivalence, extract, forecast, query
from lc_jax.prompts.equivalence import split_comparisons
from lc_jax.prompts.parsing import (
    Invalid,
    Parser,
    after_reasoning,
    final_value,
    first_paragraph,
    object_members,
    unfence,
)
from lc_jax.prompts.prompt import Prompt
from lc_jax.prompts.summarize import split_paragraphs

FILES = {
    # of the fine-tuned models
    "paragraph": "paragraph_generation/generate_paragraphs_llama_finetuned.txt",
    "extract_answers": "train/extract_answers_llama_finetuned.txt",
    "forecast_probs": "train/reward_model_forecastprobs_llama_finetuned.txt",
    "factuality": "train/reward_model_binary_correctness_llama_finetuned.txt",
    "critic": "train/value_model_llama_finetuned.txt",
    # of a base model
    "in_context": "paragraph_generation/generate_paragraphs_llama_trivia_qa_icl_8shot.txt",
    "confident_in_context": "paragraph_generation/generate_paragraphs_llama_trivia_qa_summary_icl_8shot.txt",
    "llama_2_chat": "paragraph_generation/generate_paragraphs_llama_chat_0shot.txt",
    # of short answers, which the paper does not ask for: no published files, but read from the same folder
    "few_shot": "few_shot.txt",
    "percentage": "percentage.txt",
    # of annotators
    "query": "generating_open_ended_queries/generate_open_ended_query_claude_10shot.txt",
    "clue": "generating_open_ended_queries/generate_jeopardy_question_claude_5shot.txt",
    "claude_distill": "paragraph_generation/generate_paragraphs_chatml_0shot.txt",
    "summarize": "paragraph_generation/summarize_claude.txt",
    "extract": "train/extract_answers_claude_8shot.txt",
    "forecast": "train/forecast_probs_claude_0shot.txt",
    "uncertainty": "paragraph_generation/generate_paragraphs_chatml_jafu_0shot.txt",
    "vendor_confident_in_context": "paragraph_generation/generate_paragraphs_gpt4_trivia_qa_summary_icl_8shot.txt",
    "eval_extract": "eval/extract_answers_claude_10shot.txt",
    "eval_forecast": "eval/forecast_probs_claude_0shot.txt",
    "equivalence": "eval/check_semantic_equivalence_10shot_batch10.txt",
    "claims": "biography_generation_eval/confidence_decompose_claims_claude_8shot.txt",
    "plain_claims": "biography_generation_eval/nonconfidence_decompose_claims_claude_8shot.txt",
    "confidence": "biography_generation_eval/confidence_filter_claude_1shot.txt",
    "correctness": "train/score_binary_correctness_claude_0shot.txt",
}
# A second file for a question, published for chat models: read where the first is not there.
_SECOND = {"equivalence": "eval/check_semantic_equivalence_10shot_batch10_claude_chat.txt"}

_QUERY, _READING = ("paragraph_generation_prompt",), ("generated_paragraph", "question")
# The fields that each wording has to show, by our names; where it may show others, those of our prompt.
_NEEDED = {
    **dict.fromkeys(("paragraph", "in_context", "confident_in_context", "vendor_confident_in_context"), _QUERY),
    **dict.fromkeys(("llama_2_chat", "claude_distill", "uncertainty", "few_shot", "percentage"), _QUERY),
    **dict.fromkeys(("extract_answers", "extract", "eval_extract"), _READING),
    **dict.fromkeys(("forecast_probs", "factuality", "correctness"), (*_READING, "answer")),
    **dict.fromkeys(("forecast", "eval_forecast"), (*_READING, "answer")),
    **dict.fromkeys(("claims", "plain_claims"), ("entity", "generated_paragraph")),
    "critic": ("question", "answer"),
    "query": ("question",),
    "clue": ("category", "question"),
    "summarize": ("formatted_paragraphs",),
    "equivalence": ("examples",),
    "confidence": ("statements",),
}
_ALLOWED = {
    "critic": _QUERY,
    "query": ("answer", "answers"),
    "clue": ("answer", "answers"),
    "summarize": _QUERY,
    "equivalence": ("n_queries",),
}

_HUMAN = re.compile(r"\A\s*(?:Human:|<\|im_start\|>user\n)\s*")
_ASSISTANT = re.compile(r"\n\s*Assistant:(?!.*\n\s*Human:).*\Z", re.DOTALL)
_CHAT_TURN = re.compile(r"\s*<\|im_end\|>\s*<\|im_start\|>assistant.*\Z", re.DOTALL)
_TEMPLATES = ("paragraph", "extract_answers", "forecast_probs", "factuality", "critic")  # what models.Templates holds


def _number_paragraphs(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns the drafts of a summary in the form in which the published wording shows them."""
    drafts = enumerate(split_paragraphs(fields["paragraphs"]), 1)
    return {"formatted_paragraphs": "".join(f"### Thought {number}\n{text}\n\n" for number, text in drafts)}


def _number_comparisons(fields: Mapping[str, str]) -> dict[str, str]:
    """Returns comparisons in the form of the published wording's examples, and their number."""
    items = [
        {"Question": item.question, "Ground-Truth Answer": item.answer, "Provided Answer": item.candidate}
        for item in split_comparisons(fields["comparisons"])
    ]
    blocks = [f"## Example {i}\n{json.dumps(one, indent=4, ensure_ascii=False)}" for i, one in enumerate(items, 1)]
    return {"examples": "\n\n".join(blocks), "n_queries": str(len(items))}


# Fields that a wording shows and that are made from those of a request: (made from, how).
_DERIVED: dict[str, tuple[str, Callable[[Mapping[str, str]], dict[str, str]]]] = {
    "summarize": ("paragraphs", _number_paragraphs),
    "equivalence": ("comparisons", _number_comparisons),
}


# --- parsers of replies ----------------------------------------------------------------------------------------------

_HEADINGS = re.compile(r"\A(?:\s*#{1,6} [^\n]*(?:\n|\Z))+")
_STATEMENT = re.compile(r"^[#*\s]*My Statement\b[#*:\s]*$", re.IGNORECASE | re.MULTILINE)
_PARAGRAPH = re.compile(r"\A[#*\s]*Paragraph(?: [0-9]+)?[ \t]*:[*\s]*", re.IGNORECASE)
_REASONING = re.compile(r"\W*reasoning\b", re.IGNORECASE)
_NUMBER = re.compile(r"answer ([0-9]+)", re.IGNORECASE)


def _without_headings(reply: str) -> str:
    """Removes the Markdown headings that open a reply; wordings open the assistant's turn with such a heading."""
    return _HEADINGS.sub("", unfence(reply.replace("\r\n", "\n"))).strip()


def _headed(parser: Parser) -> Parser:
    return lambda reply, fields: parser(_without_headings(reply), fields)


def _labelled(parser: Parser, word: str) -> Parser:
    """Returns `parser` for reasoning and then a labelled answer, as lines or as members of an object.

    One line without a label is an answer by itself, as a shortened wording may ask for.

    Args:
      word: a pattern for the label.
    """
    read = after_reasoning(parser, word)

    def parse(reply: str, fields: Mapping[str, str]) -> Any:
        text = _without_headings(reply)
        try:
            return read(text, fields)
        except Invalid:
            if "\n" in text or _REASONING.match(text) or re.match(word, text, re.IGNORECASE):
                raise
            return parser(text, fields)

    return parse


def _one_line_of_answers(reply: str, fields: Mapping[str, str]) -> list[str]:
    """Returns answers between semicolons; a full stop at the end of the line is not part of the last one."""
    line = reply.strip()
    return extract.PROMPT.parser(line[:-1] if line.endswith(".") and len(line) > 1 else line, fields)


def _verdicts(reply: str, fields: Mapping[str, str]) -> list[bool]:
    """Returns the verdicts of {"Answer 1": "Yes", "Answer 2": "No", ...}; an explanation may follow."""
    text = _without_headings(reply)
    parts = object_members(text)
    if parts is None:
        return equivalence.PROMPT.parser(text, fields)
    for number, name in enumerate(parts, 1):
        key = _NUMBER.fullmatch(name.strip())
        if key is None or int(key[1]) != number:
            raise Invalid(f"member {number} is called {name[:60]!r}, not 'Answer {number}'")
    return equivalence.PROMPT.parser(json.dumps(list(parts.values())), fields)


def _whole_text(reply: str, fields: Mapping[str, str]) -> str:
    """Returns a text of one or several paragraphs, without what opens or announces it."""
    text = final_value(reply)
    if not isinstance(text, str):
        raise Invalid(f"text was asked for, not {str(text)[:60]}")
    text = _STATEMENT.split(text)[-1]
    text = _PARAGRAPH.sub("", _without_headings(text)).strip()
    if not text:
        raise Invalid("the reply holds no text")
    return text


def _first_paragraph(reply: str, fields: Mapping[str, str]) -> str:
    """Returns a base model's text up to the first blank line; after it come examples of its own."""
    return first_paragraph(_PARAGRAPH.sub("", _without_headings(reply)))


_EXTRACT = _labelled(_one_line_of_answers, r"list of answers[^:\n]*")
_FORECAST = _labelled(forecast.PROMPT.parser, r"answer probability[^:\n]*")
# By name of the wording; replies to all others are read as those to ours.
PARSERS: dict[str, Parser] = {
    "extract": _EXTRACT,
    "eval_extract": _EXTRACT,
    "forecast": _FORECAST,
    "eval_forecast": _FORECAST,
    "correctness": _labelled(correctness.PROMPT.parser, r"context is correct[^:\n]*"),
    "equivalence": _verdicts,
    "query": _headed(query.PROMPT.parser),
    "clue": _headed(query.CLUE.parser),
    "summarize": _whole_text,
    "claude_distill": _whole_text,
    "uncertainty": _whole_text,
    "in_context": _first_paragraph,
    "confident_in_context": _first_paragraph,
    "vendor_confident_in_context": _whole_text,
}


# --- files -----------------------------------------------------------------------------------------------------------


def _places(folder: Path, file: str) -> tuple[Path, Path]:
    return folder / file, folder / Path(file).name


def find(folder: Path, name: str) -> Path | None:
    """Returns the file of a wording in `folder`, if there is one; not every question has a published one.

    Raises:
      ValueError: two files with different words are there for it.
    """
    files = [FILES[name], *([_SECOND[name]] if name in _SECOND else [])] if name in FILES else []
    paths = [place for file in files for place in _places(folder, file) if place.is_file()]
    if len({_plain_text(path) for path in paths}) > 1:
        raise ValueError(f"{paths[0]} and {paths[1]} are of the same question and differ: keep one of them.")
    return paths[0] if paths else None


def check(prompt_dir: str | Path) -> None:
    """Checks a folder of wordings ("": none): every file in it is read, or rejected by name.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it holds none of the published files, one under a name or in a place where nothing reads it, or one
        that is no text in UTF-8 or holds other placeholders than its question has.
    """
    if not prompt_dir:
        return
    folder = Path(prompt_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"--config.prompt_dir={str(prompt_dir)!r}: no such folder.")
    files = (*FILES.values(), *_SECOND.values())
    places = {place for file in files for place in _places(folder, file)}
    for path in sorted(folder.rglob("*.txt")):
        if path not in places and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            raise ValueError(_unknown(path, files))
    wordings = {name: file for name in FILES if (file := find(folder, name))}
    if not wordings:
        names = [Path(FILES[name]).name for name in ("extract", "forecast", "summarize")]
        raise ValueError(f"--config.prompt_dir={str(prompt_dir)!r} holds none of the published files, such as {names}.")
    for name, file in wordings.items():
        read(file, name)


def _unknown(path: Path, files: Iterable[str]) -> str:
    """Returns what is wrong with a file from which no wording is read, and the remedy."""
    names = {Path(file).name: file for file in files}
    if path.name in names:
        return f"{path} is not where it is read: move it to {names[path.name]} in prompt_dir."
    if path.stem in _TEMPLATES:
        return f"{path} is a file of templates, not of prompt_dir: give its folder by --config.templates."
    near = difflib.get_close_matches(path.name, names, 1)
    hint = f"did you mean {near[0]}? Otherwise" if near else "it has no published name:"
    return f"{path} is read by nothing; {hint} remove it from prompt_dir, whose files have the published names."


def read_text(path: Path) -> str:
    """Returns the text of a template's file.

    Raises:
      ValueError: it is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (byte {error.start}): save it in that encoding.") from None


def _plain_text(path: Path) -> str:
    """Returns a file's text with single braces, without marks of turns and without a turn of the assistant."""
    text = read_text(path).replace("{{", "{").replace("}}", "}")
    return _CHAT_TURN.sub("", _ASSISTANT.sub("", _HUMAN.sub("", text))).rstrip()


def read(path: Path, name: str, unused: Iterable[str] = ()) -> Prompt:
    """Returns the wording `name` in a file. Its replies have the wording's own form, not that of a schema.

    Args:
      unused: fields that requests have beyond those that a wording of this name may show.

    Raises:
      ValueError: a placeholder is of no field of this question, or one that the question needs is missing.
    """
    text, needed = _plain_text(path), set(_NEEDED[name])
    allowed = needed.union(_ALLOWED.get(name, ()))
    wording = Prompt(text)
    if not allowed.issuperset(wording.fields) or not needed.issubset(wording.fields):
        more = f" and may hold {sorted(allowed - needed)}" if allowed - needed else ""
        fields = f"it holds {sorted(wording.fields)}" if wording.fields else "it holds none"
        raise ValueError(f"{path} must hold the placeholders {sorted(needed)}{more}; {fields}.")
    original, derive = _DERIVED.get(name, ("", None))
    hidden = (allowed | {original} | set(unused)) - {"", *wording.fields}
    return Prompt(text, PARSERS.get(name, wording.parser), unused=frozenset(hidden), derive=derive)


def override(prompt_dir: str | Path, name: str, prompt: Prompt) -> Prompt:
    """Returns `prompt`, or the wording that `prompt_dir` ("": none) has for it.

    Raises:
      FileNotFoundError, ValueError: see `check` and `read`.
    """
    if not prompt_dir:
        return prompt
    check(prompt_dir)
    path = find(Path(prompt_dir), name)
    if path is None:
        return prompt
    wording = read(path, name, {*prompt.fields, *prompt.unused})
    return wording if name in PARSERS else dataclasses.replace(wording, parser=prompt.parser)
