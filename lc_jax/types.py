"""Records of text that cross a module boundary. No arrays, no JAX."""

from __future__ import annotations

import dataclasses
from typing import Literal

ReplyStatus = Literal["ok", "invalid", "refused", "truncated", "failed"]


@dataclasses.dataclass(frozen=True)
class Message:
    """One turn of a conversation, as chat templates take it."""

    role: str  # "system", "user" or "assistant"
    content: str


# What a model is shown: text as it stands, or a conversation that the tokenizer's chat template puts into words.
PromptText = str | tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Question:
    """One reader question about one paragraph topic (paper section 2: q, x, y)."""

    question_id: str
    prompt: str  # q, the open-ended paragraph_generation_prompt
    question: str  # x, what the reader must answer from the paragraph alone
    answer: str  # y, the usual form of the true answer (ground_truth_top_answer)
    aliases: tuple[str, ...] = ()  # other accepted forms of y
    kind: str = ""  # group label for tables by kind of question; empty when unknown


@dataclasses.dataclass(frozen=True)
class Example:
    """One supervised training example: a prompt with a target text (SFT) or a probability label (reward model)."""

    example_id: str  # the question_id, by which splits are made
    prompt: PromptText
    target: str = ""
    label: float = float("nan")  # in [0, 1]; NaN for SFT


@dataclasses.dataclass(frozen=True)
class Generation:
    """A paragraph z that a model wrote for a question's prompt q."""

    question: Question
    paragraph: str


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """What a reader of one paragraph answers: distinct answers, each with a probability in [0, 1]."""

    answers: tuple[str, ...]
    probs: tuple[float, ...]


def _encodable(text: str) -> str:
    """`text` with a replacement character for each half of a surrogate pair, which no file or database can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to an annotator; halves of surrogate pairs in its prompt become replacement characters."""

    prompt: str
    temperature: float  # 0 = greedy; models that take no temperature are asked without
    max_tokens: int  # of the reply
    sample: int = 0  # distinguishes repeated draws for one prompt
    schema: str = ""  # JSON schema that the reply should follow, where the model can be held to one; "" = plain text

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _encodable(self.prompt))


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens that one reply was charged for."""

    input_tokens: int = 0  # of the prompt, cached ones included
    output_tokens: int = 0  # of the reply, hidden reasoning included
    cached_tokens: int = 0  # of the prompt, read from the provider's cache at a lower price

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclasses.dataclass(frozen=True)
class Reply:
    """An annotator's answer to one Request. Only status "ok" carries text that may be parsed.

    Halves of surrogate pairs in text and detail become replacement characters.
    """

    status: ReplyStatus
    text: str = ""
    detail: str = ""  # why the status is not "ok"
    usage: Usage = Usage()  # zero for a reply that was not paid for: a simulated or a stored one

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _encodable(self.text))
        object.__setattr__(self, "detail", _encodable(self.detail))
