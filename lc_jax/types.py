"""Records of text that cross a module boundary. No arrays, no JAX."""

from __future__ import annotations

import dataclasses
from typing import Literal

ReplyStatus = Literal["ok", "invalid", "refused", "truncated", "failed"]


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of a conversation, as in chat templates."""

    role: str  # "system", "user" or "assistant"
    content: str


# A model's prompt: verbatim text, or a conversation for the tokenizer's chat template.
PromptText = str | tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Question:
    """A reader's question with its query and answer (paper section 2: q, x, y)."""

    question_id: str
    prompt: str  # q, the open-ended paragraph_generation_prompt
    question: str  # x, what the reader must answer from the paragraph alone
    answer: str  # y, the ground truth (ground_truth_top_answer)
    aliases: tuple[str, ...] = ()  # other accepted answers
    kind: str = ""  # group for tables by kind of question; "": unknown
    empirical_rate: float | None = None  # fraction of correct answers in earlier data, a target of rewards


@dataclasses.dataclass(frozen=True)
class Example:
    """One supervised training example: a prompt with a target text (SFT) or a probability label (reward model)."""

    example_id: str  # the question_id, by which sets are split
    prompt: PromptText
    target: str = ""
    label: float = float("nan")  # in [0, 1]; NaN for SFT


@dataclasses.dataclass(frozen=True)
class Generation:
    """Paragraph z that a model wrote for a question's prompt q."""

    question: Question
    paragraph: str


@dataclasses.dataclass(frozen=True)
class Forecasts:
    """Distinct answers of a reader of one paragraph, each with a probability in [0, 1]."""

    answers: tuple[str, ...]
    probs: tuple[float, ...]


def _encodable(text: str) -> str:
    """Replaces halves of surrogate pairs in `text`, which no file or database can store."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@dataclasses.dataclass(frozen=True)
class Request:
    """Request to an annotator; halves of surrogate pairs in its prompt become replacement characters."""

    prompt: str
    temperature: float  # 0 = greedy; omitted for models that take none
    max_tokens: int  # maximum length of the reply
    sample: int = 0  # index among several samples for one prompt
    schema: str = ""  # JSON schema of the reply, for models with structured outputs; "" = plain text

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", _encodable(self.prompt))


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens charged for one reply."""

    input_tokens: int = 0  # in the prompt, cached ones included
    output_tokens: int = 0  # in the reply, hidden reasoning included
    cached_tokens: int = 0  # in the prompt, read from the provider's cache at a lower price

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclasses.dataclass(frozen=True)
class Reply:
    """Reply of an annotator to one Request. Only with status "ok" has it text to parse.

    Halves of surrogate pairs in text and detail become replacement characters.
    """

    status: ReplyStatus
    text: str = ""
    detail: str = ""  # why the status is not "ok"
    usage: Usage = Usage()  # zero for a simulated or stored reply, which costs nothing

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _encodable(self.text))
        object.__setattr__(self, "detail", _encodable(self.detail))
