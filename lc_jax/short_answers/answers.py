"""Decides which words are a short answer: what is stripped from them, and what is rejected.

No rule tells a name from a remark, so that there are tables. Words count in lower case only, since names have them in
capitals ("As You Like It"); the patterns of openings and of non-answers count in any case. A text that is rejected for
nothing costs less than a wrong answer.
"""

from __future__ import annotations

import re
import unicodedata

from lc_jax.short_answers.probabilities import FRACTION, WORD, Unreadable

MAX_WORDS = 12  # of an answer

_EDGES = " \t\n\"“”‘’'`*_.,;:!"
_PLACE = r"(?:country|nation|city|town|village|state|island|region|continent|place)"
_NAME = r"(?=(?:the\s+)?(?:year\s+)?[^\W_a-z])"  # what follows begins with a capital or a digit


def _any(patterns: list[str], flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), flags)


# Openings that are no part of an answer. "In Bruges" may be a title: it is rejected.
_DECORATION = _any([
    r"[-–—•]\s+",
    rf"(?:in|(?:[Ll]ocated|[Ss]ituated)\s+in|[Ii]n(?=\s+(?:the\s+year\s+)?\d{{3}}))\s+{_NAME}",
    r"[Oo]n\s+(?=\d|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\s+\d)",
    r"(?:[Tt]he\s+)?[Yy]ear\s+(?=\d)",
    rf"(?:[Tt]he\s+)?{_PLACE}\s+(?:of|called|named)\s+(?=[^\W_a-z])",
    rf"the\s+{_PLACE}\s+(?=[^\W_a-z])",
])  # fmt: skip

# --- words, in lower case ---------------------------------------------------------------------------------------------


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_ANYWHERE = _words(
    # verbs of sentences
    "am are is was were been being can cannot could may might must should will would has have had does did lies",
    "belongs sits borders comes became stands refers means seems appears contains includes wrote won located situated",
    "founded born named called say says think thinks believe believes gets got gives makes happened",
    # negations, doubt, remarks
    "never nor neither hardly scarcely except excluding without no perhaps maybe surely certain certainly definitely",
    "sure unsure uncertain confident confidence certainty probability chance chances likelihood odds guess error",
    "uncertainty risk doubt accuracy presumably apparently supposedly because since although though however but if",
    "alternatively otherwise instead than then followed now today which where whose my your our its capital correct",
    "incorrect wrong city town village",
)
_FIRST = _words(
    "in it it's it’s that this these those there here he she they we you i i'm i’m about for with at on by from to",
    "near around of as between within outside under over above below beyond like unlike only just even necessarily",
    "exactly really quite actually simply merely entirely inside always not either both all any anything anyone",
    "anybody anywhere something someone somebody somewhere nothing nobody nowhere none else other others another",
    "rather far so very too more most less mostly also still or and first second secondly third thirdly next sometime",
)
_LAST = _words(  # limits, and phrases that the probability would end
    "least most than to nearly almost over under above below only between from about around roughly approximately",
    "approx exactly precisely circa ca at by with of a an the and or for that another some good solid strong high low",
    "estimated conf prob outside either in but anything anywhere none",
)

# --- patterns ---------------------------------------------------------------------------------------------------------

_OUTSIDE = r"(?:but|else|other|except|besides|in|of|near|around|on|from|at|with|within|outside)"
_ONE = r"(?:any|every|some|no)\s*(?:thing|one|body|where)"
_META = (  # nouns and adjectives about an answer
    r"(?:others?|else|answers?|guess(?:es)?|possibility|alternative|option|question|confidence|certainty|uncertainty"
    r"|probability|likelihood|chance|prob|conf|percent(?:age)?|accuracy|correctness|estimate[ds]?|level|value|number"
    r"|error|doubt|odds|risk|score|rating|reliability|total|sum|rest|remainder|reason|reasoning|explanation|source|note)"
)
_NON_ANSWER = _any([  # as a whole
    rf"(?:(?:the|my|an?|all|any|some|no|{_ONE})\s+)*{_META}",
    r"(?:an)?other\s+\w+",
    r"(?:any|all|some|none|both)(?:\s+of)?(?:\s+the)?\s+(?:others?|above|these|those|them|listed|remaining)(?:\s+\w+)?",
    r"(?:.*\s)?unknown(?:\s.*)?|unclear|unsure|uncertain|undetermined|unspecified|unanswerable|ambiguous|depends",
    rf"none(?:\s+known)?|neither|either|both|n/?a|maybe|not|idk|tbd|elsewhere|{_ONE}",
    rf"no\s+(?:idea|clue|information|data|opinion|such\s+\w+|{_PLACE})",
    r"known|clear|obvious|certain|sure|confident|(?:in)?correct|accurate|wrong|right|high|low|medium",
    r"(?:cannot|can['’]t|unable|insufficient|more\s+(?:information|context)|question)\s.*",
    r"he|she|they|we|you|me|i|myself|that|same|ditto|etc|null|hello|hi|ok|okay|thanks|thank\s+you|of\s+course",
], re.IGNORECASE)  # fmt: skip
_OPENING = _any([
    r"(?:not|neither|either|except|excluding|if|given|because|since|without|between|called|named|titled)\b",
    r"(?:never|hardly|outside|unlike|beyond)\b|(?:is|was|are|does|would|could)n['’]t\b",
    rf"{_ONE}\s+{_OUTSIDE}\b|none\s+(?:of|but|other)\b|no\s+(?-i:[a-z])|by\s+no\s+means\b|non-",
    r"(?:other|rather)\s+than\b|instead\s+of\b|far\s+from\b|one\s+of\b",
    r"(?:perhaps|maybe|certainly|definitely|surely|presumably|actually|honestly|basically|obviously|clearly|apparently)\b",
    r"(?:evidently|supposedly|allegedly|reportedly|hopefully|undoubtedly|arguably|unfortunately|sorry|probability)\b",
    r"(?:confidence|guess|answer|guessing|leaning|let['’]s|mostly|mainly|chiefly|primarily|largely)\b",
    r"(?:exactly|precisely|nearly|almost|roughly|absolutely|however|instead|otherwise|alternatively|rather|of\s+course)\b",
    r"(?:from|by|to|at|for|near|about|around|within|inside|via|into|with|country)\s+(?-i:[A-Z])|as\s+an\b|country,",
    r"(?:best|final|short|correct)\s+(?:answer|guess)\b|up\s+to\b",
    r"go(?:ing)?\s+with\b|(?:say|try)\s+(?-i:[A-Z])",
    r"(?:could|might|may|must|should|would|can)(?:\s+\w+)?\s+be\b|(?:is|was|are|were|does|did|do|has|have)\s",
    r"(?:it|he|she|they|we|you|i|there|this|that|these|those|here|what|which|who)\s+(?-i:[a-z])",
    r"(?:its|there['’]s|that['’]s)\b|in\s",
    r"(?:about|around|roughly|approximately|approx|circa|ca|c|before|after|by|until|since|or)\b\.?\s*\d",
    r"(?:yes|no|well|ok|okay|so|then|thus|hence|therefore|h+m+|u+[hm]+|ah|oh|sure|right|true|correct|again|still|now"
    r"|unsure|uncertain|[a-z]+ly)\s*[,–—-](?=\s)",
    r"(?:based\s+on|according\s+to|as\s+far|to\s+(?:my|the\s+best)|considering|judging|assuming)\b",
    r"(?:from\s+(?:memory|what|my)|for\s+(?:example|instance))\b",
    r"(?:\w+ed|born|written|built|known|made|held|part|home|found|set|drawn|sung|led|seen|taken|close|next|due)\s+"
    r"(?:in|by|as|of|to|on|for|from|with|at|near)\b",
    rf"(?:an?|the|some|any)\s+(?:\w+\s+)?(?-i:{_PLACE}|year|name|answer|author|writer|person)\b",
    r"\(\w{1,2}\)|(?-i:[a-z]|[A-EI])\.\s+(?!\w\.)|\d{1,2},\s+[^\W\d]",  # numbers of a list
], re.IGNORECASE)  # fmt: skip
_REMARK = _any([
    rf"(?i:{WORD})|\bnot\b(?!\s+to\b)|\bNOT\b|\b[a-z]+n['’]t\b|\b(?:rather|other)\s+than\b|\b(?:instead\s+of|far\s+from)\b",
    r"\bI\s+(?:know|think|believe|guess|suppose|say|recall|remember|assume|feel|hope|bet|suspect)\b",
    r"^I\s+[a-z]+\b|\bI['’](?:m|d|ll|ve)\b|\b[a-z]+ed\s+(?:it|this|that)\b|,\s*(?:who|with|or)\b|\b(?:formerly|aka|known\s+as)\b",
    r"\((?:an?\s+|my\s+|best\s+|very\s+)*(?i:high|low|medium|moderate|guess|estimate|p|prob)\b",
    r"(?<!\d):|:(?!\d)|[\\{}\[\]@]|#\d|\s[/–—-]{1,2}\s|[/–—-]$|[^\W\d]\(",  # labels, markup
    r"[^\W\d],\d|,\s*\d{1,3}$",  # a number that may be a probability
])  # fmt: skip
_ANY_NUMBER = _any([
    rf"%|\bper ?cent\b|\d\s*pct\b|{FRACTION}|\b\d+\s+of\s+\d|\d\s+or\s+\d",
    r"\S\s+(?:0?\.\d+|1\.0+|\d+\s*[/:]\s*\d+)$|\(\s*\d?,\d+\s*\)|\(\s*\d+\s+to\s+\d+\s*\)",
    r"fifty[\s-]fifty|50\s*[/-]\s*50|\(\s*(?:twen|thir|for|fif|six|seven|eigh|nine)ty\b|\b(?:one|two|three|nine)\s+in\s+(?:t|four|five)",
    r"\bor\s+(?:so|more|less|earlier|later|fewer)\b|\+/-|plus\s+or\s+minus|at\s+the\s+(?:latest|earliest)$|\d-?ish\b|\d\+$",
], re.IGNORECASE)  # fmt: skip
_BARE_NUMBER = re.compile(r"\(\s*[\d.]{1,3}\s*\)")  # "(75)", but not the year of a film
_ABBREVIATION = r"(?:\w|St|Mt|Ft|Mr|Mrs|Ms|Dr|Jr|Sr|Sgt|Capt|Lt|Col|Gen|Gov|Sen|Rev|Prof|No|Co|Inc|Ltd|Op|Vol|vs)\."
_INNER_STOP = re.compile(r"(\w+[.;!?]+)\s+\S")


def short_answer(text: str) -> str:
    """Returns an answer without marks around it and without openings such as "in" or "located in".

    Raises:
      Unreadable: it may be no short answer.
    """
    answer = _strip(text)
    while match := _DECORATION.match(answer):
        answer = _strip(answer[match.end() :])
    if not any(map(str.isalnum, answer)):
        raise Unreadable("a probability without an answer")
    if answer.count("(") != answer.count(")") or _BARE_NUMBER.search(answer):
        raise Unreadable(f"parentheses without a probability: {answer[:60]!r}")
    if _ANY_NUMBER.search(answer):
        raise Unreadable(f"a probability in no known form: {answer[:60]!r}")
    if _NON_ANSWER.fullmatch(answer):
        raise Unreadable(f"{answer[:60]!r} is no answer")
    if not all(re.fullmatch(_ABBREVIATION, stop) for stop in _INNER_STOP.findall(answer)):
        raise Unreadable(f"several sentences where a short answer is expected: {answer[:60]!r}")
    if remark := _remark(answer):
        raise Unreadable(f"{remark!r} is no part of a short answer, and no probability: {answer[:60]!r}")
    if len(answer.split()) > MAX_WORDS:
        raise Unreadable(f"more than {MAX_WORDS} words where a short answer is expected: {answer[:60]!r}")
    return answer


def _strip(text: str) -> str:
    answer = " ".join(text.strip(_EDGES).split())
    if answer.endswith(")") and answer.count("(") < answer.count(")"):
        answer = answer.strip(_EDGES + ")")
    if re.search(r"\b[^\W\d]\.[^\W\d]$", answer):
        answer += "."  # of "U.S."
    return answer


def _remark(answer: str) -> str:
    """Returns something in a text that no short answer has; "" if there is nothing."""
    words = re.findall(r"[\w'’]+", answer)
    remarks = [word for word in words if word in _ANYWHERE]
    remarks += [word for word in words[:1] if word in _FIRST] + [word for word in words[1:][-1:] if word in _LAST]
    remarks += [match[0] for match in (_REMARK.search(answer), _OPENING.match(answer)) if match]
    remarks += [c for c in answer if unicodedata.category(c) in ("Sm", "So") and c not in "+×÷⁄°"]  # "→", "≈", emoji
    return remarks[0] if remarks else ""
