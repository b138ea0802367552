"""Prompts for paragraphs of the models under evaluation: the prompted baselines (paper section 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from lc_jax.prompts import in_context, paragraph, published
from lc_jax.prompts.models import CHAT, load_templates
from lc_jax.prompts.parsing import one_paragraph
from lc_jax.prompts.prompt import Prompt, read_template, schema

UNCERTAINTY = Prompt(read_template("uncertainty"), one_paragraph, schema("paragraph", {"type": "string"}))

# In the form that Llama 2 Chat was trained on; the tokenizer adds the first token.
_CHAT = """\
[INST] <<SYS>>
You help with writing. Do what is asked, as well as you can, and add no remarks of your own.
<</SYS>>

MESSAGE [/INST]"""
LLAMA_2_CHAT = Prompt(
    _CHAT.replace(
        "MESSAGE",
        "{paragraph_generation_prompt} Write one paragraph of three to five sentences, as an encyclopedia would.",
    )
)


def _first_line(reply: str, fields: Mapping[str, str]) -> str:
    """Returns the short answer of a model that was shown examples; after it come examples of its own."""
    return reply.partition("\n")[0].strip()


PERCENTAGE = Prompt(read_template("percentage"))
COMPLETED_PERCENTAGE = Prompt(PERCENTAGE.template + "\n\nReply:", _first_line)  # for a model that continues texts

# By name: (the prompt, its published name). "finetuned" is in the templates of the model.
_PROMPTED = {
    "0-shot": (paragraph.PROMPT, "claude_distill"),
    "8-shot": (in_context.PROMPT, "in_context"),
    "summary-8-shot": (in_context.CONFIDENT, "confident_in_context"),
    "uncertainty": (UNCERTAINTY, "uncertainty"),
    "llama-2-chat": (LLAMA_2_CHAT, "llama_2_chat"),
}
# Of short answers. "own-probability": the answer of "few-shot", and the model's own probability of it as a percentage.
FEW_SHOT, ASKED_PERCENTAGE, OWN_PROBABILITY = SHORT = ("few-shot", "percentage", "own-probability")
OF_CHECKPOINTS = ("finetuned", "8-shot", "summary-8-shot", "llama-2-chat", *SHORT)
OF_PROVIDERS = ("0-shot", "8-shot", "summary-8-shot", "uncertainty")


def of_base_model(prompt_dir: str | Path) -> str:
    """Returns the strategy that samples a base model: "few-shot" with few_shot.txt in `prompt_dir`, else "8-shot"."""
    has_examples = bool(prompt_dir) and published.find(Path(prompt_dir), "few_shot") is not None
    return FEW_SHOT if has_examples else "8-shot"


def load(strategy: str, templates: str | Path, prompt_dir: str | Path = "", *, checkpoint: bool) -> Prompt:
    """Returns the prompt of a strategy, with the one field `paragraph_generation_prompt`.

    Args:
      templates: of fine-tuned models; see `load_templates`. With "chat", "percentage" is a user's message.
      prompt_dir: a folder of wordings in place of ours; see `published`. "few-shot" needs its few_shot.txt, examples
        and then the question.
      checkpoint: whether a checkpoint writes, rather than a provider's model.

    Raises:
      ValueError: such a writer has no such strategy, or no few_shot.txt is there.
    """
    names = OF_CHECKPOINTS if checkpoint else OF_PROVIDERS
    if strategy not in names:
        writer = "a checkpoint" if checkpoint else "a provider's model"
        raise ValueError(f"--config.strategy={strategy!r}: the strategies for {writer} are {list(names)}.")
    if strategy == "finetuned":
        return load_templates(templates, prompt_dir).paragraph
    if strategy == ASKED_PERCENTAGE:
        ours = dataclasses.replace(PERCENTAGE, is_message=True) if templates == CHAT else COMPLETED_PERCENTAGE
        return dataclasses.replace(published.override(prompt_dir, "percentage", ours), is_message=ours.is_message)
    if strategy in SHORT:
        examples = published.override(prompt_dir, "few_shot", COMPLETED_PERCENTAGE)
        if examples is COMPLETED_PERCENTAGE:
            raise ValueError(
                f"--config.strategy={strategy} needs examples: give a folder with few_shot.txt by --config.prompt_dir; "
                "the file ends with {paragraph_generation_prompt} and what comes before an answer."
            )
        return examples
    prompt, name = _PROMPTED[strategy]
    if not checkpoint and strategy == "summary-8-shot":
        name = "vendor_confident_in_context"
    wording = published.override(prompt_dir, name, prompt)
    if strategy == "llama-2-chat" and wording is not prompt and "[INST]" not in wording.template:
        return dataclasses.replace(wording, template=_CHAT.replace("MESSAGE", wording.template))
    return wording
