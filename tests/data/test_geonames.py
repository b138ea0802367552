"""Questions about places: their facts, names that several countries share, and topics that do not exist."""

import pytest

from lc_jax.data import geonames, rows
from lc_jax.data.questions import load_questions


def by_id(topic):
    return {row["question_id"]: row for row in rows.load_rows(f"geonames:{topic}")}


def test_cities_have_their_country_with_other_names_and_a_quarter_by_population():
    cities = by_id("cities")
    assert cities["city/Lyon"]["question"] == "In which country is the city of Lyon?"
    assert cities["city/Lyon"]["answer"] == "France"
    assert cities["city/Chicago"]["aliases"][:2] == ["US", "USA"]
    assert cities["city/Shanghai"]["kind"] == "quarter 1 by population"
    counts = [sum(row["kind"].startswith(f"quarter {n}") for row in cities.values()) for n in (1, 2, 3, 4)]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) > 30_000


def test_a_name_in_several_countries_is_that_of_a_city_ten_times_larger_or_left_out():
    cities = by_id("cities")
    assert (
        cities["city/London"]["answer"] == "United Kingdom"
    )  # another one is in Canada, with a twentieth of the people
    assert "city/Valencia" not in cities  # in Spain and in Venezuela, both large


@pytest.mark.parametrize(
    ("topic", "name", "answer"),
    [
        ("capitals", "capital/Norway", "Oslo"),
        ("continents", "continent/Kenya", "Africa"),
        ("currencies", "currency/Japan", "Yen"),
    ],
)
def test_countries_have_capital_continent_and_currency(topic, name, answer):
    row = by_id(topic)[name]
    assert row["answer"] == answer
    assert row["question"] == row["paragraph_generation_prompt"]


@pytest.mark.parametrize(
    ("topic", "name", "accepted"),
    [
        ("currencies", "currency/United States", {"Dollar", "US Dollar", "United States Dollar", "USD"}),
        ("currencies", "currency/Japan", {"Yen", "Japanese Yen"}),
        ("currencies", "currency/United Kingdom", {"Pound", "British Pound", "Pound sterling"}),
        ("currencies", "currency/China", {"Yuan", "Renminbi", "Chinese Yuan"}),
        ("currencies", "currency/Canada", {"Canadian Dollar"}),
        ("currencies", "currency/Senegal", {"CFA franc", "West African CFA franc"}),
        ("capitals", "capital/United States", {"Washington", "Washington, D.C."}),
        ("capitals", "capital/Kazakhstan", {"Astana"}),
        ("cities", "city/Macau", {"Macau", "Macao"}),
    ],
)
def test_usual_names_are_accepted(topic, name, accepted):
    row = by_id(topic)[name]
    assert accepted <= {row["answer"], *row["aliases"]}


def test_there_are_countries_of_today_alone_without_outer_blanks():
    capitals = by_id("capitals")
    assert not {"capital/Netherlands Antilles", "capital/Serbia and Montenegro"} & set(capitals)
    assert all(row["answer"] == row["answer"].strip() for row in capitals.values())


@pytest.mark.parametrize("topic", geonames._TOPICS)
def test_every_row_is_a_question_with_an_id_of_its_own(topic):
    questions = load_questions(f"geonames:{topic}")
    assert len({q.question_id for q in questions}) == len({q.question for q in questions}) == len(questions)
    assert all(q.answer and q.answer not in q.aliases and q.kind for q in questions)


def test_an_unknown_topic_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"geonames:rivers: give geonames:TOPIC with one of \['capitals', 'cities'"):
        rows.load_rows("geonames:rivers")
