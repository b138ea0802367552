"""Grammar of statements: splits a text into sentences, and a sentence into answers with their probabilities."""

from __future__ import annotations

import re
from typing import NamedTuple

from lc_jax.short_answers.probabilities import BARE, FRACTION, PERCENTAGE, WORD, Probability, Unreadable, value_of

MAX_WORDS = 12  # of an answer


class Item(NamedTuple):
    """An answer as written, with its stated probability."""

    answer: str
    probability: Probability | None  # None: none is stated


# --- phrases ----------------------------------------------------------------------------------------------------------

_NOUN = r"(?:chance|probability|likelihood|confidence|certainty)"
_ADJECTIVE = r"(?:sure|certain|confident|likely|probable)"
_BE = r"(?:is|was|would\s+be|(?:could|might|may)(?:\s+(?:also|instead))?\s+be)"
_SUBJECT = (
    r"(?:(?:(?:my|the|another|one)\s+)?(?:(?:best|first|second|third|other|final|correct|right|most\s+likely)\s+)?"
    rf"(?:answer|guess|possibility|alternative)(?:\s+{_BE}|\s*:)|(?:it|this|that)(?:\s+{_BE}|['’]s)"
    rf"|the\s+{_NOUN}\s+(?:that(?:\s+it\s+is|\s+the\s+answer\s+is)?|of))"
)
_OPINION = (
    r"(?:I\s+(?:think|believe|guess|would\s+say)|I['’]d\s+say|I(?:\s+am|['’]m)\s+not\s+sure,?\s+but(?:\s+I\s+think)?)"
    r"(?:\s+that)?"
)
_CONNECTIVE = r"(?:or|and|but|also|alternatively|otherwise)"
# What may precede an answer; a connective in capitals opens an answer ("And Then There Were None") but for a subject.
_LEAD = (  # atomic: once read as an opening, its words are no answer
    rf"(?>(?:{_CONNECTIVE},?\s+(?=(?:{_OPINION}|{_SUBJECT})\s)|(?-i:{_CONNECTIVE}),?\s+)?"
    rf"(?:{_OPINION}\s+)?(?:{_SUBJECT}\s+)?)"
)
_ABOUT = r"(?:(?:about|around|roughly|approximately)\s+|~\s*)?"


def _probability(kinds: str) -> str:
    return rf"{_ABOUT}(?P<probability>{kinds})"


_ANY, _COUNT = _probability(f"{PERCENTAGE}|{FRACTION}|{WORD}"), _probability(f"{PERCENTAGE}|{FRACTION}")
_LABELLED, _PERCENTAGE = _probability(f"{PERCENTAGE}|{FRACTION}|{WORD}|{BARE}"), _probability(PERCENTAGE)
_OF_IT = r"(?:\s+(?:of|about|in)\s+(?:it|this|that)(?:\s+answer)?)?"

# An answer, then its probability; each ends a sentence or a member of a list.
_AFTER = [
    rf"\s*\(\s*(?:(?:with\s+)?(?:an?\s+)?{_NOUN}(?:\s+of|\s*[:=])?\s*)?{_LABELLED}(?:\s+(?:{_NOUN}|{_ADJECTIVE}))?\s*\)",
    rf",?\s+with\s+(?:an?\s+)?{_ANY}\s+{_NOUN}",
    rf"(?:[.,;:]|\s+-)?\s+(?:with\s+)?(?:(?:an?|my|the)\s+)?{_NOUN}(?:\s+level)?{_OF_IT}(?:\s+is|\s+of|\s*[:=])?\s+{_LABELLED}",
    rf"[.,;]?\s+(?:and\s+|but\s+)?I(?:\s+am|['’]m)\s+{_COUNT}\s+{_ADJECTIVE}{_OF_IT}",
    rf"\s+(?:is|seems)\s+(?:an?\s+)?{_ANY}(?:\s+{_ADJECTIVE})?",
    rf"(?:\s*[,:–—=]\s*|\s+-\s+|\s+){_PERCENTAGE}(?:\s+(?:{_NOUN}|{_ADJECTIVE}))?",
]  # fmt: skip
# A probability, then its answer.
_BEFORE = [
    rf"(?:there(?:\s+is|['’]s)\s+)?(?:an?\s+)?{_COUNT}\s+{_NOUN}\s+(?:that|of)(?:\s+{_SUBJECT})?",
    rf"there(?:\s+is|['’]s)\s+{_probability('a good chance')}\s+(?:that|of)(?:\s+{_SUBJECT})?",
    rf"{_COUNT}\s+{_ADJECTIVE}(?:\s+that)?(?:\s+{_SUBJECT})?",
    rf"I(?:\s+am|['’]m)\s+{_COUNT}\s+{_ADJECTIVE}(?:\s+(?:that|of))?(?:\s+{_SUBJECT})?",
    rf"with\s+(?:an?\s+)?{_ANY}\s+{_NOUN},?(?:\s+{_SUBJECT})?",
    rf"with\s+(?:an?\s+)?{_NOUN}\s+(?:of\s+)?{_LABELLED},?(?:\s+{_SUBJECT})?",
    rf"I\s+(?P<probability>doubt)(?:\s+that)?(?:\s+{_SUBJECT})?",
    rf"{_probability(WORD)}(?:\s+to\s+be|(?:\s+that)?(?:\s+{_SUBJECT})?)",
    rf"{_PERCENTAGE}\s*:?",
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
_SEPARATOR = re.compile(r"[\s,;.!]*")
_PLAIN = re.compile(rf"(?P<lead>{_LEAD})(?P<answer>\S.*)", _FLAGS)
_NOT = r"(?:(?:is|was)\s+(?:certainly\s+|definitely\s+)?not|(?:is|was)n['’]t|cannot\s+be|can['’]t\s+be)"
_NEGATION = re.compile(
    rf"(?:{_OPINION}\s+)?(?:(?:it|this|that|the\s+answer)(?:\s+{_NOT}|['’]s\s+not)|not)\s+(?P<answer>\S.*)", _FLAGS
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
_CONFIDENCE = re.compile(rf"(?:{_AFTER[2]}|{_AFTER[3]})[\s.!]*".replace("(?P<probability>", "(?:"), _FLAGS)

# --- answers ----------------------------------------------------------------------------------------------------------

_EDGES = " \t\n\"“”‘’'`*_.,;:!"
_DOUBTS = re.compile(  # in lower case, since titles have their words in capitals
    rf"{WORD}|\b(?:am|are|is|was|were|can|could|may|might|must|would|perhaps|maybe|surely|certain|certainly|definitely"
    r"|sure|unsure|uncertain|confident|confidence|certainty|probability|chance|likelihood|don['’]t|isn['’]t)\b|,\s*not\b"
)
_OPENING_DOUBT = re.compile(
    r"(?:perhaps|maybe|certainly|definitely|surely|presumably|confidence|probability|I\s+(?-i:[a-z]+))\b", _FLAGS
)
_LIMIT = re.compile(
    r"\b(?:at least|at most|more than|less than|up to|nearly|almost|over|under|above|below|only|between|from|to"
    r"|about|around|roughly|approximately)$",
    re.IGNORECASE,
)
_ABBREVIATION = r"(?:\w|St|Mt|Ft|Mr|Mrs|Ms|Dr|Jr|Sr|Sgt|Capt|Lt|Col|Gen|Gov|Sen|Rev|Prof|No|Co|Inc|Ltd|Op|Vol|vs)"
_INNER_STOP = re.compile(r"(\w+)[.;]\s+\S")
_BARE_NUMBER = re.compile(r"\(\s*[\d.]{1,3}\s*\)")  # "(75)", but not the year of a film
_ANY_NUMBER = re.compile(rf"%|\bper ?cent\b|{FRACTION}", re.IGNORECASE)


def _answer(text: str) -> str:
    """Returns an answer without marks around it.

    Raises:
      Unreadable: it is no short answer.
    """
    answer = " ".join(text.strip(_EDGES).split())
    if answer.endswith(")") and answer.count("(") < answer.count(")"):
        answer = answer.strip(_EDGES + ")")
    if re.search(r"\b[^\W\d]\.[^\W\d]$", answer):
        answer += "."  # of "U.S."
    if not any(map(str.isalnum, answer)):
        raise Unreadable("a probability without an answer")
    if answer.count("(") != answer.count(")") or _BARE_NUMBER.search(answer):
        raise Unreadable(f"parentheses without a probability: {answer[:60]!r}")
    if _ANY_NUMBER.search(answer):
        raise Unreadable(f"a probability in no known form: {answer[:60]!r}")
    doubt = _DOUBTS.search(answer) or _OPENING_DOUBT.match(answer) or _LIMIT.search(answer)
    if doubt:
        raise Unreadable(f"{doubt[0]!r} is no part of a short answer, and no probability: {answer[:60]!r}")
    stops = (stop[1] for stop in _INNER_STOP.finditer(answer))
    if not all(re.fullmatch(_ABBREVIATION, word) for word in stops):
        raise Unreadable(f"several sentences where a short answer is expected: {answer[:60]!r}")
    if len(answer.split()) > MAX_WORDS:
        raise Unreadable(f"more than {MAX_WORDS} words where a short answer is expected: {answer[:60]!r}")
    return answer


def sentences(text: str) -> list[str]:
    """Returns the sentences of a text; one that has a confidence but no answer is joined to the one before it."""
    joined: list[str] = []
    for sentence in _SENTENCE_END.split(text.strip()):
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
        return [Item(_answer(negation["answer"]), Probability(0.0, 0.0))]
    if _ALONE.fullmatch(sentence):
        raise Unreadable(f"a probability without an answer: {sentence[:60]!r}")
    refusal = None
    for patterns in _FORMS:
        members = _members(sentence, patterns)
        try:
            if members:
                return [Item(_answer(answer), value_of(probability)) for answer, probability in members]
        except Unreadable as error:
            refusal = refusal or error
    if refusal:
        raise refusal
    plain = _PLAIN.fullmatch(sentence)
    if plain is None or re.search(r"\b(?:could|might|may)\b", plain["lead"], re.IGNORECASE):
        raise Unreadable(f"doubt without a probability: {sentence[:60]!r}")
    return [Item(_answer(plain["answer"]), None)]


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
