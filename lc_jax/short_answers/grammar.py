"""Grammar of statements: splits a text into sentences, and a sentence into answers with their probabilities."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from lc_jax.short_answers.answers import short_answer
from lc_jax.short_answers.probabilities import (
    BARE,
    FRACTION,
    PERCENTAGE,
    SINGLE,
    WORD,
    Probability,
    Unreadable,
    value_of,
)


class Item(NamedTuple):
    """An answer as written, with its stated probability."""

    answer: str
    probability: Probability | None  # None: none is stated


# --- phrases ----------------------------------------------------------------------------------------------------------

_NOUN = r"(?:chance|probability|likelihood|confidence|certainty)"
_ADJECTIVE = r"(?:sure|certain|confident|likely|probable)"
_BE = r"(?:is|was|would\s+be|(?:could|might|may)(?:\s+(?:also|instead))?\s+be)"
_KIND = r"(?:best|first|second|third|other|final|correct|right|short|most\s+likely)"
_LABEL = (
    r"(?:answer|guess|possibility|alternative|response|country|capital(?:\s+city)?|city|year|date|name|person|author|place"
    r"|location)"
)
_SUBJECT = (
    rf"(?:(?:(?:my|the|another|one)\s+)?(?:{_KIND}\s+)?{_LABEL}(?:\s+\d)?(?:\s+{_BE}(?:\s*:)?|\s*:|\s+[-–—](?=\s))|A:"
    rf"|(?:it|this|that)(?:\s+{_BE}|['’]s|\s+being)|the\s+{_NOUN}\s+(?:that(?:\s+it\s+is|\s+the\s+answer\s+is)?|of))"
)
_OPINION = (
    r"(?:I\s+(?:think|believe|guess|would\s+(?:say|guess))|I['’]d\s+(?:say|guess)"
    r"|I(?:\s+am|['’]m)\s+not\s+sure,?\s+but(?:\s+I\s+think)?)(?:\s+that)?"
)
_CONNECTIVE = r"(?:or|and|but|also|alternatively|otherwise)"
# What may precede an answer; a connective in capitals opens an answer ("And Then There Were None") but for a subject.
_LEAD = (  # atomic: once read as an opening, its words are no answer
    rf"(?>(?:{_CONNECTIVE},?\s+(?=(?:{_OPINION}|{_SUBJECT})\s)|(?-i:{_CONNECTIVE}),?\s+)?"
    rf"(?:{_OPINION}\s+)?(?:{_SUBJECT}\s+)?)"
)
_ABOUT = r"(?:(?:about|around|roughly|approximately|approx\.?)\s+|[~≈]\s*)?"


def _probability(kinds: str) -> str:
    return rf"{_ABOUT}(?P<probability>{kinds})"


_ANY, _COUNT = _probability(f"{PERCENTAGE}|{FRACTION}|{WORD}"), _probability(f"{PERCENTAGE}|{FRACTION}")
_LABELLED, _PERCENTAGE = _probability(f"{PERCENTAGE}|{FRACTION}|{WORD}|{BARE}"), _probability(PERCENTAGE)
_SINGLE = _probability(SINGLE)
_OF_IT = r"(?:\s+(?:of|about|in)\s+(?:it|this|that)(?:\s+answer)?)?"

# An answer, then its probability; each ends a sentence or a member of a list.
_AFTER = [
    rf"\s*[(\[]\s*(?:(?:with\s+)?(?:an?\s+)?(?:{_NOUN}(?:\s+level)?|p|prob)(?:\s+of|\s*[:=])?\s*|I(?:\s+am|['’]m)\s+)?{_LABELLED}"
    rf"(?:\s+(?:{_NOUN}|{_ADJECTIVE}))?\s*[)\]]",
    rf",?\s+with\s+(?:an?\s+)?{_ANY}\s+{_NOUN}",
    rf"(?:[.,;:]|\s+-)?\s+(?:with\s+)?(?:(?:an?|my|the)\s+)?{_NOUN}(?:\s+(?:level|score))?{_OF_IT}(?:\s+is|\s+of|\s*[:=])?\s+{_LABELLED}",
    rf"[.,;]?\s+(?:and\s+|but\s+)?I(?:\s+am|['’]m)\s+{_COUNT}\s+{_ADJECTIVE}{_OF_IT}",
    rf"\s+(?:is|seems)\s+(?:an?\s+)?{_ANY}(?:\s+{_ADJECTIVE})?",
    rf"\s*[:=]\s*{_PERCENTAGE}(?:\s+(?:{_NOUN}|{_ADJECTIVE}))?",
    # A number before a dash may be the answer's ("World War 2 - 70%") or the first of a range.
    rf"(?:\s*,\s*|(?<!\b\d)(?<!\b\d\d)(?:\s*[–—]\s*|\s+-\s+)|\s+(?:at\s+)?){_SINGLE}(?:\s+(?:{_NOUN}|{_ADJECTIVE}))?",
]  # fmt: skip
# A probability, then its answer.
_BEFORE = [
    rf"(?:there(?:\s+is|['’]s)\s+)?(?:an?\s+)?{_COUNT}\s+{_NOUN}(?:\s+(?:that|of))?(?:\s+{_SUBJECT})?",
    rf"there(?:\s+is|['’]s)\s+{_probability('a good chance')}\s+(?:that|of)(?:\s+{_SUBJECT})?",
    rf"{_COUNT}\s+{_ADJECTIVE}(?:\s+that)?(?:\s+{_SUBJECT})?",
    rf"I(?:\s+am|['’]m)\s+{_COUNT}\s+{_ADJECTIVE}(?:\s+(?:that|of|about))?(?:\s+{_SUBJECT})?",
    rf"with\s+(?:an?\s+)?{_ANY}\s+{_NOUN}[,:]?(?:\s+{_SUBJECT})?",
    rf"with\s+(?:an?\s+)?{_NOUN}\s+(?:of\s+)?{_LABELLED},?(?:\s+{_SUBJECT})?",
    rf"I\s+(?P<probability>doubt)(?:\s+that)?(?:\s+{_SUBJECT})?",
    rf"{_probability(WORD)}(?:\s+to\s+be|(?:\s+that)?(?:\s+{_SUBJECT})?)",
    rf"{_PERCENTAGE}(?:\s*:|\s+-)?(?:\s+{_SUBJECT})?",
]
_FLAGS = re.IGNORECASE | re.DOTALL
_HEADS = "|".join(_BEFORE).replace("(?P<probability>", "(?:")
_MEMBER_END = rf"(?=\s*(?:[.,;!]|$|{_CONNECTIVE}\b))"
_NEXT_HEAD = rf"(?=[\s,.;!]*$|(?:,|;|\s{_CONNECTIVE}\b)[\s,]*{_LEAD}(?:{_HEADS})\s)"
_FORMS = [
    [re.compile(rf"{_LEAD}(?P<answer>\S.*?){tail}{_MEMBER_END}", _FLAGS) for tail in _AFTER],
    [re.compile(rf"{_LEAD}{head}\s+(?P<answer>\S.*?){_NEXT_HEAD}", _FLAGS) for head in _BEFORE],
]
_ALONE = re.compile(
    rf"(?:{_LEAD}|I(?:\s+am|['’]m)\s+)\(?(?:an?\s+)?{_ANY}(?:\s+(?:{_ADJECTIVE}|{_NOUN}))?[\s.!)]*", _FLAGS
)
# A capital opens a title only after a subject.
_REMARK = re.compile(rf"(?:And|Or|But|Also|Then|Thus|Hence|Only|Just|Still)\s+(?!(?i:{_OPINION}|{_SUBJECT})\s)")
_SEPARATOR = re.compile(r"[\s,;.!]*")
_PLAIN = re.compile(rf"(?P<lead>{_LEAD})(?P<answer>\S.*)", _FLAGS)
_NOT = r"(?:(?:is|was)\s+(?:certainly\s+|definitely\s+)?not|(?:is|was)n['’]t|cannot\s+be|can['’]t\s+be)"
_NEGATION = re.compile(
    rf"(?:{_OPINION}\s+)?(?:(?:it|this|that|the\s+answer)(?:\s+{_NOT}|['’]s\s+not)|(?-i:not))"
    r"\s+(?P<answer>\S.*)",
    _FLAGS,
)
_NO_ANSWER = re.compile(
    r"(?:I\s+(?:do\s+not|don['’]t|cannot|can['’]t)\s+(?:know|tell|say|answer)"
    r"(?:\s+(?:that|this|it|the\s+answer|this\s+question|the\s+question))?"
    r"|I\s+have\s+no\s+idea|I(?:\s+am|['’]m)\s+not\s+sure|no\s+answers?|unknown)[\s.!]*",
    _FLAGS,
)
# A full stop ends a sentence where an opening follows it, or a probability precedes it: not in "St. Louis".
_OPENINGS = (
    r"It|This|That|There|The\s+(?:other\s+|second\s+)?(?:answer|probability|chance|confidence)|My|Another|I\s+\w+|I['’]\w+"
    r"|Or|And|But|Also|Alternatively|Otherwise|With|Not|Confidence|Probability|Certainty|Answer|Probably|Possibly"
)
_SENTENCE_END = re.compile(rf"[.!?;]\s+(?=(?:{_OPENINGS})\b)|(?<=[%)])[.!;]\s+|\s*\n\s*")
_CONFIDENCE = re.compile(
    rf"(?:{_AFTER[0]}|{_AFTER[2]}|{_AFTER[3]}|\s+{_SINGLE})[\s.!]*".replace("(?P<probability>", "(?:"), _FLAGS
)

# --- sentences --------------------------------------------------------------------------------------------------------

_MARKDOWN = re.compile(  # not "M*A*S*H"
    r"\*\*|__|`|(?<![^\W_])[*_](?=\S)|(?<=\S)[*_](?![^\W_])|^\s*#+\s+", re.MULTILINE
)
_BULLET = re.compile(r"^\s*(?:\d[.)]|[-–—•*])\s+(?=\S)", re.MULTILINE)


def sentences(text: str) -> list[str]:
    """Returns the sentences of a text in NFKC, without markup and the bullets or numbers of a list.

    One that has a confidence but no answer is joined to the one before it.
    """
    plain = _MARKDOWN.sub("", _BULLET.sub("", unicodedata.normalize("NFKC", text)))
    joined: list[str] = []
    for sentence in _SENTENCE_END.split(plain.strip()):
        if joined and _CONFIDENCE.fullmatch(f" {sentence}"):
            joined[-1] = f"{joined[-1].rstrip('.,; ')}. {sentence}"
        elif sentence.strip():
            joined.append(sentence.strip())
    return joined


def items(sentence: str) -> list[Item]:
    """Returns the answers of a sentence, in order; [] of one that says that the answer is not known.

    Raises:
      Unreadable: it has no form that the rules know.
    """
    if _NO_ANSWER.fullmatch(sentence):
        return []
    if negation := _NEGATION.fullmatch(sentence):
        answer = short_answer(negation["answer"])
        if "," in answer or not re.match(r"(?:(?:the|an?)\s+)?[^\W_a-z]", answer):  # "not known", "not France, Spain"
            raise Unreadable(f"a negation of something that may be no answer: {sentence[:60]!r}")
        return [Item(answer, Probability(0.0, 0.0))]
    if _REMARK.match(sentence):
        raise Unreadable(f"a title or a remark: {sentence[:60]!r}")
    if _ALONE.fullmatch(sentence):
        raise Unreadable(f"a probability without an answer: {sentence[:60]!r}")
    refusal = None
    for patterns in _FORMS:
        members = _members(sentence, patterns)
        try:
            if members:
                return [Item(short_answer(answer), value_of(probability)) for answer, probability in members]
        except Unreadable as error:
            refusal = refusal or error
    if refusal:
        raise refusal
    plain = _PLAIN.fullmatch(sentence)
    if plain is None or re.search(r"\b(?:could|might|may)\b", plain["lead"], re.IGNORECASE):
        raise Unreadable(f"doubt without a probability: {sentence[:60]!r}")
    return [Item(short_answer(plain["answer"]), None)]


def _members(sentence: str, patterns: list[re.Pattern[str]]) -> list[tuple[str, str]]:
    """Returns the (answer, probability) pairs that make up a sentence; [] if something else is in it."""
    pairs, place = [], 0
    while place < len(sentence):
        matches = [match for pattern in patterns if (match := pattern.match(sentence, place))]
        if not matches:
            return []
        match = min(matches, key=lambda match: len(match["answer"]))
        pairs.append((match["answer"], match["probability"]))
        end = _SEPARATOR.match(sentence, match.end())
        assert end is not None  # it matches the empty text
        place = end.end()
    return pairs
