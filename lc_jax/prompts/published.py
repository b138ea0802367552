"""Wordings from a folder of text files under the published names, in place of ours.

A file may stand in the published subfolder or directly in the folder. Doubled braces are braces, as str.format has it.
A turn that a file opens for the assistant is left out: models of today take none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from lc_jax.prompts.prompt import Prompt

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
    # of annotators
    "query": "generating_open_ended_queries/generate_open_ended_query_claude_10shot.txt",
    "clue": "generating_open_ended_queries/generate_jeopardy_question_claude_5shot.txt",
    "claude_distill": "paragraph_generation/generate_paragraphs_chatml_0shot.txt",
    "summarize": "paragraph_generation/summarize_claude.txt",
    "extract": "train/extract_answers_claude_8shot.txt",
    "forecast": "train/forecast_probs_claude_0shot.txt",
    "uncertainty": "paragraph_generation/generate_paragraphs_chatml_jafu_0shot.txt",
    "eval_extract": "eval/extract_answers_claude_10shot.txt",
    "eval_forecast": "eval/forecast_probs_claude_0shot.txt",
    "claims": "biography_generation_eval/confidence_decompose_claims_claude_8shot.txt",
    "plain_claims": "biography_generation_eval/nonconfidence_decompose_claims_claude_8shot.txt",
    "confidence": "biography_generation_eval/confidence_filter_claude_1shot.txt",
    "correctness": "train/score_binary_correctness_claude_0shot.txt",
}
_HUMAN = re.compile(r"\A\s*Human:\s*")
_ASSISTANT = re.compile(r"\n\s*Assistant:(?!.*\n\s*Human:).*\Z", re.DOTALL)


def find(folder: Path, name: str) -> Path | None:
    """The file of a wording in `folder`, if there is one; of some questions no wording of this kind was published."""
    if name not in FILES:
        return None
    places = (folder / FILES[name], folder / Path(FILES[name]).name)
    return next((place for place in places if place.is_file()), None)


def check(prompt_dir: str | Path) -> None:
    """Checks a folder of wordings ("": none).

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: it holds none of the published files, or one that is no text in UTF-8.
    """
    if not prompt_dir:
        return
    folder = Path(prompt_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"--config.prompt_dir={str(prompt_dir)!r}: no such folder.")
    paths = [path for name in FILES if (path := find(folder, name))]
    if not paths:
        names = [Path(FILES[name]).name for name in ("extract", "forecast", "summarize")]
        raise ValueError(f"--config.prompt_dir={str(prompt_dir)!r} holds none of the published files, such as {names}.")
    for path in paths:
        read_text(path)


def read_text(path: Path) -> str:
    """Returns the text of a template's file.

    Raises:
      ValueError: it is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (byte {error.start}): save it in that encoding.") from None


def read(path: Path, fields: Iterable[str], original: Prompt | None = None) -> Prompt:
    """The wording in a file, with the parser of `original`; its replies follow no schema but the wording's own form.

    Args:
      fields: what the prompt is given. A wording may leave some out.

    Raises:
      ValueError: a placeholder is none of these fields, or there is none.
    """
    text = read_text(path).replace("{{", "{").replace("}}", "}")
    wording = Prompt(_ASSISTANT.sub("", _HUMAN.sub("", text)).rstrip())
    fields = frozenset(fields)
    if not wording.fields or not fields.issuperset(wording.fields):
        raise ValueError(f"{path} must hold some of the placeholders {sorted(fields)}, not {list(wording.fields)}.")
    parser = original.parser if original else wording.parser
    return Prompt(wording.template, parser, unused=fields - set(wording.fields))


def override(prompt_dir: str | Path, name: str, prompt: Prompt) -> Prompt:
    """`prompt`, or the wording that `prompt_dir` ("": none) has for it.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: see `read`.
    """
    if not prompt_dir:
        return prompt
    if not Path(prompt_dir).is_dir():
        raise FileNotFoundError(f"--config.prompt_dir={str(prompt_dir)!r}: no such folder.")
    path = find(Path(prompt_dir), name)
    return read(path, {*prompt.fields, *prompt.unused}, prompt) if path else prompt
