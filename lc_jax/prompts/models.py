"""The prompts of fine-tuned models (paper section 4, appendix), in folders of template files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lc_jax.prompts import published
from lc_jax.prompts.prompt import TEMPLATES, Prompt

CHAT = "chat"  # requests for paragraphs go through a model's own chat template; reader models have those of "full"
AUTO = "auto"  # "chat" for a model whose tokenizer has a conversation of its own, otherwise "full"
_FIELDS = {
    "paragraph": {"paragraph_generation_prompt"},
    "extract_answers": {"generated_paragraph", "question"},
    "forecast_probs": {"generated_paragraph", "question", "answer"},
    "factuality": {"generated_paragraph", "question", "answer"},
    "critic": {"paragraph_generation_prompt", "question", "answer"},
}


@dataclasses.dataclass(frozen=True)
class Templates:
    """The prompts of one family of fine-tuned models, which a model reads in training and afterwards."""

    paragraph: Prompt  # q -> z
    extract_answers: Prompt  # z, x -> answers
    forecast_probs: Prompt  # z, x, answer -> probability
    factuality: Prompt  # z, x, y -> correct or not
    critic: Prompt  # q, x, y: the prompt of a critic that sees the true answer


def load_templates(name_or_directory: str | Path, prompt_dir: str | Path = "") -> Templates:
    """Reads "full", "short", "chat" or "auto", or a folder that holds paragraph.txt, extract_answers.txt, and so on.

    "auto" depends on a model (see data.tokenizer.load_templates_for); where there is none, it is "full".
    Trailing white space is stripped, so a target follows the template's last word directly.
    Reference: utils.py:read.

    Args:
      prompt_dir: a folder whose files, under the published names, take the place of those templates; "": none.

    Raises:
      FileNotFoundError: neither a known name nor a folder, or the folder lacks a file.
      ValueError: a file's placeholders are not the ones of its question.
    """
    if name_or_directory == AUTO:
        return load_templates("full", prompt_dir)
    if name_or_directory == CHAT:
        full = load_templates("full", prompt_dir)
        request = published.override(prompt_dir, "paragraph", Prompt("{paragraph_generation_prompt}"))
        return dataclasses.replace(full, paragraph=dataclasses.replace(request, is_message=True))
    folder = TEMPLATES / name_or_directory
    if not folder.is_dir():
        folder = Path(name_or_directory)
    if not folder.is_dir():
        names = sorted([*(path.name for path in TEMPLATES.iterdir() if path.is_dir()), CHAT, AUTO])
        raise FileNotFoundError(f"No templates {str(name_or_directory)!r}: give one of {names} or a folder.")
    return Templates(**{name: published.override(prompt_dir, name, _load(folder, name)) for name in _FIELDS})


def _load(folder: Path, name: str) -> Prompt:
    path = folder / f"{name}.txt"
    if path.is_file():
        prompt = Prompt(published.read_text(path).rstrip())
        if set(prompt.fields) != _FIELDS[name]:
            raise ValueError(f"{path} must hold the placeholders {sorted(_FIELDS[name])}, not {list(prompt.fields)}.")
        return prompt
    file = published.find(folder, name)
    if file is None:
        files = [f"{other}.txt" for other in _FIELDS]
        raise FileNotFoundError(f"{path} is missing; a template folder holds {files}, or the published files.")
    return published.read(file, name, _FIELDS[name])
