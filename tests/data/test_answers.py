"""Accepted answers in the layouts of several data sets; none of them may be named by a query."""

import csv
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lc_jax.data.answers import accepted_answers, parse_aliases
from lc_jax.data.questions import load_questions, raw_questions
from lc_jax.prompts import Invalid, query

MOON = ["14 December 1972 UTC", "December 1972"]


@pytest.mark.parametrize(
    "row",
    [
        {"answer": MOON},  # NQ-open
        {"answer": json.dumps(MOON)},
        {"answer": str(MOON)},
        {"answer": "['14 December 1972 UTC' 'December 1972']"},  # NumPy's, as pandas writes it into a CSV file
        {"answer": "['14 December 1972 UTC'\n 'December 1972']"},
        {"possible_answers": json.dumps(MOON)},  # PopQA
        {"answers": {"text": [*MOON, MOON[0]], "answer_start": [3, 9, 3]}},  # SQuAD
        {"answers": str({"text": MOON, "answer_start": [3, 9]})},
        {"answers": f"{{'text': array({MOON}, dtype=object), 'answer_start': array([3, 9])}}"},
        {"answers": [{"text": MOON[0], "answer_start": 3}, {"text": MOON[1], "answer_start": 9}]},
        {"answer": {"value": MOON[0], "aliases": MOON[1:], "normalized_aliases": [MOON[1]]}},  # TriviaQA
        {"Answer": {"Value": MOON[0], "Aliases": [], "NormalizedAliases": MOON[1:]}},
        {"answer": [[MOON[0]], ["", None, MOON[1]]]},
        {"answer": " ", "answers": MOON},
        {"Answer ": MOON[0], "aliases": [" ", MOON[1]]},
        {"aliases": MOON},
        {"aliases": json.dumps(MOON), "answer": None},
        {"Aliases": [" ", *MOON], "answer": "", "normalized_aliases": [MOON[1]]},
    ],
)
def test_every_accepted_answer_counts_and_the_first_is_the_main_one(row):
    assert accepted_answers(row) == MOON


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (7.0, "7"),
        (2.36, "2.36"),
        (True, "true"),
        ("[1, 2]", "[1, 2]"),
        ("{x}", "{x}"),
        ("[A]", "[A]"),
        (0, "0"),
    ],
)
def test_numbers_and_texts_that_look_like_lists_are_one_answer(value, text):
    assert accepted_answers({"answer": value}) == [text]


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", [], [""], {"text": []}, {"unknown": 3}])
def test_nothing_is_no_answer(value):
    assert accepted_answers({"answer": value, "question": "Q"}) == []


@given(
    st.recursive(st.text(max_size=5) | st.none() | st.integers() | st.floats() | st.booleans(), st.lists, max_leaves=9)
)
def test_forms_are_texts_without_blanks_and_duplicates(value):
    aliases = parse_aliases(value)
    assert all(isinstance(alias, str) and alias.strip() for alias in aliases)
    assert len(set(aliases)) == len(aliases)
    assert parse_aliases(aliases) == aliases


def test_a_csv_file_of_lists_gives_the_same_question_as_json_lines(tmp_path):
    row = {"question": "When was the last time anyone was on the moon?", "answer": MOON}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with open(tmp_path / "a.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    (question,) = load_questions(tmp_path / "a.jsonl")
    assert (question.answer, question.aliases) == (MOON[0], (MOON[1],))
    assert load_questions(tmp_path / "a.csv") == [question]


def test_a_query_may_name_none_of_them():
    ((question,), _) = raw_questions([{"question": "When was the last moon walk?", "answer": MOON}], "mine")
    fields = query.request_fields(question.question, [question.answer, *question.aliases])
    with pytest.raises(Invalid, match="gives the answer away: 'December 1972'"):
        query.PROMPT.parse("Write a paragraph about the moon walk of December 1972.", fields)
