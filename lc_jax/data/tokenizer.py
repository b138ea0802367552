"""Tokenizers: stop tokens, begin and end of sequence, chat template and token ids of a checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging as stdlib_logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from lc_jax.data import chat
from lc_jax.data.jsonl import write_json
from lc_jax.data.memo import memoise
from lc_jax.models import folders, layout
from lc_jax.prompts import Prompt, Templates, load_templates
from lc_jax.prompts.models import AUTO, CHAT
from lc_jax.types import Message, PromptText

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = "[PAD]"
# transformers no longer cleans up for such tokenizers since version 5, so the rule is repeated here; the order matters.
_SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
_PLACEHOLDER = 0xF0000  # first of the private-use characters that replace special tokens in messages' text


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Converts between text and a checkpoint's token ids.

    Text is tokenised verbatim, after the begin-of-sequence token if the tokenizer adds one, and never with an
    end-of-sequence token: SFT adds `end_id` itself. Special tokens in data, such as "</s>", are split into ordinary
    pieces; those of a chat template are special. Ids without a row in the embedding are rejected.

    Differs: the published code lets special tokens in data become special ids.
    """

    hf: PreTrainedTokenizerBase | None  # transformers' own; None: a checkpoint without tokenizer files, ids alone
    name: str  # the folder or hub name, for messages
    stop_ids: tuple[int, ...]  # any of them ends a completion: generation_config.json, config.json, tokenizer, template
    num_rows: int | None = None  # of the checkpoint's embedding; None: no checkpoint
    prefix: tuple[int, ...] = ()  # ids before every text: begin-of-sequence or nothing
    end_of_turn_id: int | None = None  # id with which the chat template ends an assistant's turn
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # contents of generation_config.json

    def __len__(self) -> int:
        """Number of tokens, added ones included."""
        return len(self._hf)

    @property
    def _hf(self) -> PreTrainedTokenizerBase:
        if self.hf is None:
            raise ValueError(f"No tokenizer at {self.name!r}; put its tokenizer files into the folder, or give ids.")
        return self.hf

    @property
    def eos_id(self) -> int:
        """The end-of-sequence token."""
        return self._hf.eos_token_id

    @property
    def pad_id(self) -> int | None:
        """The padding token, which is never sampled; None if it is a token with another use."""
        if self.hf is None:
            return None
        pad, others = self.hf.pad_token_id, (self.hf.bos_token_id, self.hf.unk_token_id)
        return None if pad in (*self.stop_ids, *self.prefix, *others) else pad

    def end_id(self, prompt: PromptText) -> int:
        """Returns the token that ends a completion of `prompt`; for a conversation, its template's end of turn."""
        return self.eos_id if isinstance(prompt, str) or self.end_of_turn_id is None else self.end_of_turn_id

    def encode_prompt(self, prompt: PromptText, where: str = "", max_length: int | None = None) -> list[int]:
        """Encodes a prompt: text verbatim, or a conversation with the tokenizer's own chat template.

        Args:
          where: file and row of the prompt, for messages.
          max_length: in tokens; a longer prompt is rejected.

        Raises:
          ValueError: there is no chat template, it refuses the messages, an id has no row in the embedding, or the
            prompt is longer than `max_length`.
          ImportError: jinja2, in which chat templates are written, is missing.
        """
        if isinstance(prompt, str):
            ids = [*self.prefix, *self._ids(prompt, special=False)]
        else:
            pieces = self._render(prompt, where)
            ids = list(itertools.chain.from_iterable(self._ids(text, special=special) for text, special in pieces))
        if max_length is not None and len(ids) > max_length:
            start = prompt if isinstance(prompt, str) else prompt[-1].content
            raise ValueError(f"{_at(where)}A prompt of {len(ids)} tokens exceeds {max_length}: {start[:60]!r}")
        return self.check_ids(ids, where)

    def encode_pair(self, prompt: PromptText, completion: str, where: str = "") -> tuple[list[int], int]:
        """Encodes prompt and completion as one text; returns the ids and the number of the prompt's.

        A token across the boundary belongs to the completion if it has a visible character of it, so that the loss
        covers the whole completion.

        Raises:
          ValueError: the completion is empty, or as in `encode_prompt`.
        """
        if not completion:
            raise ValueError(f"{_at(where)}the completion is empty: give text, or leave the row out.")
        if isinstance(prompt, str):
            text, prefix, special = prompt, self.prefix, False
        else:
            pieces = self._render(prompt, where)
            if len(pieces) > 1 or self._special_pattern().search(completion):
                before = self.encode_prompt(prompt, where)
                return before + self.check_ids(self._ids(completion, special=False), where), len(before)
            text, prefix, special = pieces[0][0], (), True
        alone, settings = self._ids(text, special=special), {"return_offsets_mapping": self._hf.is_fast}
        joined = self._encode(text + completion, special=special, **settings)
        ids = joined["input_ids"]
        num_shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(alone, ids, strict=False)))
        offsets = joined.get("offset_mapping")
        num_prompt = num_shared if offsets is None else _prompt_length(offsets, num_shared, len(text), completion)
        return self.check_ids([*prefix, *ids], where), len(prefix) + num_prompt

    def decode(self, tokens: Sequence[int], clean_up: bool = False) -> str:
        """Decodes `tokens` without special tokens.

        Args:
          clean_up: remove the space before punctuation, as the published PPO rollout does and its evaluation does not.
            Reference: rl/ppo_trainer.py:rollout.
        """
        text = self._hf.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for spaced in _SPACED if clean_up else ():
            text = text.replace(spaced, spaced.strip(" "))
        return text

    def line_break_ids(self) -> tuple[int, ...]:
        """Returns the ids of all tokens whose text has a line break."""
        texts = self._hf.batch_decode([[i] for i in range(len(self))], clean_up_tokenization_spaces=False)
        return tuple(i for i, text in enumerate(texts) if "\n" in text)

    def fits(self, max_length: int) -> Callable[[PromptText], bool]:
        """Returns a predicate: whether a prompt has at most `max_length` tokens."""
        return lambda prompt: len(self.encode_prompt(prompt)) <= max_length

    def check_ids(self, ids: Any, where: str = "") -> list[int]:
        """Checks that each of `ids` has a row in the checkpoint's embedding, and returns them as a list.

        Raises:
          ValueError: one is not an integer, negative, or beyond the last row; the message names it and `where`.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids  # a cell of a Parquet file is an array
        if not isinstance(ids, list) or any(type(i) is not int for i in ids):
            raise ValueError(f"{_at(where)}token ids are a list of integers, not {str(ids)[:60]!r}.")
        wrong = next((i for i in ids if i < 0 or (self.num_rows is not None and i >= self.num_rows)), None)
        if wrong is None:
            return ids
        raise ValueError(
            f"{_at(where)}token id {wrong}{self._text_of(wrong)} has no row in the embedding of {self.name} with its "
            f"{self.num_rows} rows (ids 0 to {(self.num_rows or 0) - 1}). A token added to the tokenizer needs a row: "
            "fine-tune the model with it, or use the tokenizer that the checkpoint was trained with."
        )

    def _text_of(self, token: int) -> str:
        """Returns the text of a token in brackets; "" if it has none."""
        has_text = self.hf is not None and 0 <= token < len(self.hf)
        return f" ({self._hf.convert_ids_to_tokens(token)!r})" if has_text else ""

    def with_pad_token(self) -> Tokenizer:
        """Returns a tokenizer for training, with a padding token and as many embedding rows as tokens.

        If its pad is missing, or is a token with another use, "[PAD]" is added as the last id.
        """
        if self.pad_id is None:
            self._hf.add_special_tokens({"pad_token": PAD})
        return dataclasses.replace(self, num_rows=len(self))

    def add_chat_template(self, prompt: Prompt) -> None:
        """Adds a chat template that puts a user's message into `prompt`, unless the tokenizer has a template.

        With it, `messages` in generate, transformers and vLLM become the prompts of training; begin-of-sequence is in
        the template.
        """
        if self._hf.chat_template or prompt.is_message or len(prompt.fields) != 1:
            return
        (field,) = prompt.fields
        question = "Write a paragraph about it."
        expected = self.encode_prompt(prompt.render(**{field: question}))
        before, after = prompt.render(**{field: "\0"}).split("\0")
        begin = self._hf.convert_ids_to_tokens(list(self.prefix))
        for space in ("", " "):  # some tokenizers put a space before text, but not after a special token
            self._hf.chat_template = chat.TEMPLATE % tuple(
                json.dumps(text, ensure_ascii=False) for text in ("".join(begin) + space + before, after)
            )
            if self.encode_prompt((Message("user", question),)) == expected:
                return
        self._hf.chat_template = None
        logging.warning("%s: its prompts cannot be written as a chat template; none is saved", self.name)

    def save(self, folder: Path) -> None:
        """Saves all files of the tokenizer, chat templates too, and generation_config.json.

        generation_config.json has all keys of the source; stop tokens that it lacks are added to `eos_token_id`, and a
        `pad_token_id` is the tokenizer's own.
        """
        self._hf.save_pretrained(folder)
        model = Path(self.name) / "tokenizer.model"
        if model.is_file() and not (folder / model.name).exists():
            shutil.copy(model, folder / model.name)
        generation = dict(self.generation)
        eos_ids = layout.token_ids(generation.get("eos_token_id"), self.name)
        if missing := [i for i in self.stop_ids if i not in eos_ids]:
            ids = [*eos_ids, *missing]
            generation["eos_token_id"] = ids if len(ids) > 1 else ids[0]
        if generation.get("pad_token_id") is not None and self._hf.pad_token_id is not None:
            generation["pad_token_id"] = self._hf.pad_token_id
        if generation.get("bos_token_id") is None and self._hf.bos_token_id is not None:
            generation["bos_token_id"] = self._hf.bos_token_id
        write_json(folder / layout.GENERATION, generation)

    # --- text -> ids ---

    def _encode(self, text: str, *, special: bool, **settings: Any) -> Any:
        """Encodes without begin and end tokens; special tokens in `text` are special only if `special`."""
        return self._hf(text, add_special_tokens=False, split_special_tokens=not special, verbose=False, **settings)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return list(self._encode(text, special=special)["input_ids"])

    def _special_pattern(self) -> re.Pattern[str]:
        """Returns a pattern of the texts of special tokens, which never matches if there are none."""
        texts = sorted(chat.special_texts(self._hf), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def _render(self, messages: Sequence[Message], where: str) -> list[tuple[str, bool]]:
        """Renders a conversation with the chat template, up to the beginning of the assistant's reply.

        Returns (text, is_special): the template's pieces, whose special tokens are special (True), and special tokens
        in messages, which are ordinary text (False). Without the latter there is one piece.
        """
        if not self._hf.chat_template:
            raise ValueError(
                f"{_at(where)}the tokenizer of {self.name} has no chat template: give `prompt` as text, or put a "
                "chat_template.jinja into the folder."
            )
        pattern, special_texts = self._special_pattern(), list(chat.special_texts(self._hf))

        def hide(match: re.Match[str]) -> str:
            return chr(_PLACEHOLDER + special_texts.index(match[0]))

        turns = [{"role": m.role, "content": pattern.sub(hide, m.content)} for m in messages]
        try:
            text = chat.apply_template(self._hf, turns, add_generation_prompt=True)
        except ValueError as error:
            raise ValueError(f"{_at(where)}the chat template of {self.name} refuses the messages: {error}") from error
        pieces = re.split(f"([{chr(_PLACEHOLDER)}-{chr(_PLACEHOLDER + len(special_texts))}])", text)
        pieces[1::2] = [special_texts[ord(placeholder) - _PLACEHOLDER] for placeholder in pieces[1::2]]
        return [(piece, place % 2 == 0) for place, piece in enumerate(pieces) if piece or len(pieces) == 1]


def load_tokenizer(path: str | Path, need_text: bool = True) -> Tokenizer:
    """Loads the tokenizer of the folder `path`, or of the hub repository "owner/name" or "owner/name@revision".

    A text that begins with a space may get other ids than from SentencePiece, since transformers 5 converts Llama
    tokenizers; prompts begin with a word.

    Args:
      need_text: whether a tokenizer is required; if not, and a checkpoint has none, `hf` is None.

    Raises:
      FileNotFoundError: there is no such folder or repository.
      ValueError: there is no tokenizer at `path`, it has no end-of-sequence token, or a file says something odd.
    """
    from transformers import AutoTokenizer

    stdlib_logging.getLogger("transformers.configuration_utils").addFilter(_is_no_model_type_warning)
    folder = folders.text_folder(Path(path) if Path(path).is_dir() else folders.resolve(path))
    has_config = any((folder / name).is_file() for name in ("config.json", layout.ADAPTER))
    config = folders.read_config(folder) if has_config else {}
    generation = layout.read_json(folder / layout.GENERATION) if (folder / layout.GENERATION).is_file() else {}
    if not need_text and not folders.has_tokenizer(folder):
        return make_tokenizer(None, str(folder), config, generation)
    for file in filter(Path.is_file, (folder / name for name in layout.TOKENIZER_FILES)):
        layout.check_file(file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # of many packages: tokenizers raises bare ones
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"No tokenizer at {str(path)!r}; download one and pass its folder. ({reason})") from error
    return make_tokenizer(tokenizer, str(folder), config, generation)


@memoise
def resolve_templates(model: str, name: str) -> str:
    """Returns the name of the prompts of the model at `model`: `name` itself unless it is "auto".

    "auto" is "chat" if its tokenizer has a chat template, other than what `add_chat_template` wrote, and "full"
    otherwise.

    Raises:
      FileNotFoundError, ValueError: as in `load_tokenizer`.
    """
    if name != AUTO:
        return name
    return CHAT if chat.has_conversation(load_tokenizer(model, need_text=False).hf) else "full"


def load_templates_for(model: str, name: str, prompt_dir: str = "") -> Templates:
    """Loads the prompts of the model at `model` by name; errors are those of `resolve_templates`, `load_templates`."""
    return load_templates(resolve_templates(model, name), prompt_dir)


def _is_no_model_type_warning(record: stdlib_logging.LogRecord) -> bool:
    """Filters out transformers' warning about model types that it does not have, such as our reward models'."""
    return "You are using a model of type" not in record.getMessage()


def make_tokenizer(
    hf: PreTrainedTokenizerBase | None,
    name: str = "",
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """Makes a Tokenizer from transformers' own, config.json and generation_config.json.

    A tokenizer without an end-of-sequence token gets the first stop token of these files, or else the token that ends a
    turn of its chat template.

    Raises:
      ValueError: there is no end-of-sequence token, or a file's ids are not integers.
    """
    config, generation = config or {}, generation or {}
    stops = layout.token_ids(generation.get("eos_token_id"), f"{name}/{layout.GENERATION}")
    stops += layout.token_ids(config.get("eos_token_id"), f"{name}/config.json")
    rows = config.get("vocab_size")
    if hf is None:
        return Tokenizer(None, name, tuple(dict.fromkeys(stops)), rows, generation=generation)
    if hf.eos_token_id is None and stops:
        hf.eos_token = hf.convert_ids_to_tokens(stops[0])
    end_of_turn = chat.end_of_turn(hf, name)
    if hf.eos_token_id is None and end_of_turn is not None:
        hf.eos_token = hf.convert_ids_to_tokens(end_of_turn)
    if hf.eos_token_id is None:
        raise ValueError(f"The tokenizer {name or hf.name_or_path!r} has no end-of-sequence token; set eos_token.")
    stops += (hf.eos_token_id,) if end_of_turn is None else (hf.eos_token_id, end_of_turn)
    body = hf("a", add_special_tokens=False)["input_ids"]
    ids = hf("a")["input_ids"]
    num_prefix = next(n for n in range(len(ids) + 1) if ids[n : n + len(body)] == body)
    return Tokenizer(hf, name, tuple(dict.fromkeys(stops)), rows, tuple(ids[:num_prefix]), end_of_turn, generation)


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _prompt_length(offsets: Sequence[tuple[int, int]], num_shared: int, length: int, completion: str) -> int:
    """Returns the number of the prompt's tokens in prompt and completion, tokenised together.

    Args:
      offsets: characters [start, end) of each token.
      num_shared: number of tokens shared with the prompt tokenised alone: they are the prompt's whatever the offsets
        of white space, which some tokenizers leave out.
      length: characters of the prompt.
    """
    visible = length + len(completion) - len(completion.lstrip())
    for place, (start, end) in enumerate(offsets):
        if end > visible or (place >= num_shared and start >= length):
            return place
    return min(num_shared, len(offsets) - 1)
