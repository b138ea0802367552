"""Chat templates of tokenizers: how they render a conversation, what ends a turn, and which ones are the project's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REFUSAL = "this model takes user and assistant messages alone"
# Chat template of fine-tuned models without a conversation format: text before and after the user's.
TEMPLATE = (
    "{%% for message in messages %%}{%% if message['role'] == 'user' %%}{{ %s + message['content'] + %s }}"
    "{%% elif message['role'] == 'assistant' %%}{{ message['content'] + eos_token }}"
    "{%% else %%}{{ raise_exception('" + _REFUSAL + "') }}{%% endif %%}{%% endfor %%}"
)
_REPLY = "\N{WHITE SQUARE}reply\N{WHITE SQUARE}"  # marks an assistant's turn in a rendered conversation


def has_conversation(hf: PreTrainedTokenizerBase | None) -> bool:
    """Returns whether a tokenizer has a chat template, and not one of TEMPLATE, which repeats a training prompt."""
    template = hf.chat_template if hf is not None else None
    text = template.get("default", "") if isinstance(template, dict) else template or ""
    return bool(text) and _REFUSAL not in text


def special_texts(hf: PreTrainedTokenizerBase) -> dict[str, int]:
    """Returns the texts of special tokens with their ids."""
    by_text = {token.content: i for i, token in hf.added_tokens_decoder.items() if token.special}
    return by_text | dict(zip(hf.all_special_tokens, hf.all_special_ids, strict=True))


def apply_template(hf: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, str]], **settings: Any) -> str:
    """Renders a conversation with the tokenizer's chat template.

    Raises:
      ImportError: jinja2, in which templates are written, is missing or too old.
      ValueError: the template fails at this conversation; the message is its reason.
    """
    try:
        return hf.apply_chat_template(turns, tokenize=False, **settings)
    except ImportError:
        raise
    except Exception as error:  # whatever a template raises: TemplateError, TypeError, KeyError ...
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error


def end_of_turn(hf: PreTrainedTokenizerBase, name: str) -> int | None:
    """Returns the first special token after an assistant's turn in the chat template, if there is one."""
    if not hf.chat_template:
        return None
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _REPLY}]
    try:
        rendered = apply_template(hf, turns)
    except ValueError as error:  # a template that takes other conversations, or is broken
        logging.warning(
            "%s: its chat template does not render a user's and an assistant's message (%s); turns end with %s.",
            name, error, hf.eos_token,
        )  # fmt: skip
        return None
    tail = hf(rendered.rpartition(_REPLY)[2], add_special_tokens=False, split_special_tokens=False)["input_ids"]
    special = set(special_texts(hf).values())
    return next((i for i in tail if i in special), None)
