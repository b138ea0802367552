"""Pages of an encyclopedia: normalised titles, redirects, and passages of texts."""

from __future__ import annotations

import dataclasses
import re
import unicodedata

PASSAGE_WORDS = 180  # of a passage: about the published 256 tokens
_REDIRECT = re.compile(r"\s*#redirect\s*:?\s*\[\[([^]|#]+)", re.IGNORECASE)


class NoPage(LookupError):
    """Raised if no page, or no single one, is about an entity; the message says why."""


@dataclasses.dataclass(frozen=True)
class Page:
    """The page of an encyclopedia about one entity."""

    title: str
    passages: tuple[str, ...]


def normalise_title(title: str) -> str:
    """Returns a title for comparison: without case, in one Unicode form, underscores as spaces."""
    if title.isascii():  # most are, and the rest takes three times as long
        return " ".join(title.replace("_", " ").lower().split())
    folded = unicodedata.normalize("NFKC", title.replace("_", " ")).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def split_passages(text: str, num_words: int = PASSAGE_WORDS) -> list[str]:
    """Splits a text into passages of `num_words` words, the last one shorter; [] for an empty text."""
    words = text.split()
    return [" ".join(words[start : start + num_words]) for start in range(0, len(words), num_words)]


def redirect_target(text: str) -> str:
    """Returns the title in a text "#REDIRECT [[...]]"; "" for any other text."""
    match = _REDIRECT.match(text)
    return match[1].strip() if match else ""
