"""Pages of an encyclopedia: how titles are compared, where redirects lead, how texts are cut into passages."""

from __future__ import annotations

import dataclasses
import re
import unicodedata

PASSAGE_WORDS = 180  # of a passage: about the published 256 tokens
_REDIRECT = re.compile(r"\s*#redirect\s*:?\s*\[\[([^]|#]+)", re.IGNORECASE)


class NoPage(LookupError):
    """No page, or no single one, is about an entity; the message says why."""


@dataclasses.dataclass(frozen=True)
class Page:
    """The page of an encyclopedia about one entity."""

    title: str
    passages: tuple[str, ...]


def normal(title: str) -> str:
    """The form in which titles are compared: without case, composed or decomposed, underscores as spaces."""
    if title.isascii():  # most are, and the rest takes three times as long
        return " ".join(title.replace("_", " ").lower().split())
    folded = unicodedata.normalize("NFKC", title.replace("_", " ")).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def cut(text: str, num_words: int = PASSAGE_WORDS) -> list[str]:
    """A text as passages of `num_words` words, the last one shorter; [] of an empty text."""
    words = text.split()
    return [" ".join(words[start : start + num_words]) for start in range(0, len(words), num_words)]


def redirect_target(text: str) -> str:
    """Returns the title that a text "#REDIRECT [[...]]" leads to; "" for any other text."""
    match = _REDIRECT.match(text)
    return match[1].strip() if match else ""
