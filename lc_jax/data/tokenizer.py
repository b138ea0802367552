"""Tokenizers: loaded with a pad token of their own, and deaf to special tokens written in data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = "[PAD]"
# transformers refuses its own clean-up for such tokenizers since version 5, so the rule stands here; the order matters.
_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def load_tokenizer(path: str | Path, need_pad: bool = True) -> PreTrainedTokenizerBase:
    """The Hugging Face tokenizer in the folder `path`, or of the hub repository "owner/name" or "owner/name@revision".

    A tokenizer without a pad token gets "[PAD]" as its last id; the end-of-sequence token never stands in for it. Text
    such as "</s>" within data is split into ordinary pieces. A text that begins with a space may get other ids than
    SentencePiece gives it, since transformers 5 builds Llama tokenizers anew; prompts begin with a word.

    Differs: the published code lets special tokens in data become special ids.

    Raises:
      ValueError: there is no tokenizer at `path`, or it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    name, _, revision = (str(path), "", "") if Path(path).is_dir() else str(path).partition("@")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision or "main")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"No tokenizer at {str(path)!r}; download one and pass its folder. ({error})") from error
    return prepare(tokenizer, need_pad)


def prepare(tokenizer: PreTrainedTokenizerBase, need_pad: bool = True) -> PreTrainedTokenizerBase:
    """Gives a tokenizer from elsewhere what load_tokenizer gives; changes it in place and returns it.

    Raises:
      ValueError: it has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(f"The tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token; set eos_token.")
    tokenizer.split_special_tokens = True
    if need_pad and (tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of `text`, with the tokenizer's begin-of-sequence token if it has the habit."""
    return list(tokenizer(text, verbose=False)["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], clean_up: bool = False) -> str:
    """Text of `tokens` without special tokens.

    Args:
      clean_up: remove the space before punctuation, as the published PPO rollout does and its evaluation does not.
        Reference: rl/ppo_trainer.py:rollout.
    """
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    for spaced in _SPACED if clean_up else ():
        text = text.replace(spaced, spaced.strip(" "))
    return text


def fits(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Callable[[str], bool]:
    """A test whether a prompt stays within `max_length` tokens."""
    return lambda text: len(encode(tokenizer, text)) <= max_length
