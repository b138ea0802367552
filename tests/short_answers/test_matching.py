"""Equality of short answers: literal cases of TriviaQA's normalisation, and its properties."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_jax.short_answers.matching import matches, normalise_answer


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Beatles", "beatles"),
        ("  the   United\tStates ", "united states"),
        ("Dr. Strangelove", "dr strangelove"),
        ("U.S.A.", "u s"),  # the A is an article then, as in TriviaQA
        ("M*A*S*H", "m s h"),
        ("rock_and_roll", "rock and roll"),
        ("It’s a `quote´", "it s quote"),
        ("An Officer and a Gentleman", "officer and gentleman"),
        ("Anthem", "anthem"),
        ("São Tomé", "são tomé"),
        ("1.5", "1 5"),
        ("C++", "c"),
        ("“Hamlet” – «Ham»", "hamlet ham"),  # from here on it differs: TriviaQA keeps Unicode punctuation and forms
        ("Sa\u0303o Tome\u0301", "são tomé"),
        ("Ｆｒａｎｃｅ！", "france"),
        ("A", "a"),  # TriviaQA has an empty text for this and the next three: TriviaQA has an empty text
        ("The The", "the the"),
        ("!!!", "!!!"),
        ("", ""),
    ],
)
def test_normalisation_is_that_of_triviaqa(answer, normal):
    assert normalise_answer(answer) == normal


@pytest.mark.parametrize(
    ("candidate", "accepted", "same"),
    [
        ("Sa\u0303o Tomé", ["S\u00e3o Tome\u0301"], True),
        ("“It’s” a wonderful life", ['"It\'s" a Wonderful Life'], True),
        ("the us", ["USA", "U.S.", "US"], True),
        ("Strangelove", ["Dr. Strangelove"], False),
        ("dr strangelove", ["Doctor Strangelove", "Dr. Strangelove"], True),
        ("15", ["1.5"], False),
        ("A", ["The"], False),
        ("", [""], False),
        ("France", [], False),
    ],
)
def test_a_candidate_matches_any_accepted_answer_and_no_part_of_one(candidate, accepted, same):
    assert matches(candidate, accepted) == same


@given(st.text())
def test_articles_punctuation_and_white_space_around_an_answer_change_nothing(text):
    normal = normalise_answer(text)
    assert normal == " ".join(normal.split()) == normalise_answer(f" \n{text}\t")
    assert matches(f"the x {text}!", [f"X {text}"])  # with a word that is no article


@given(st.text(), st.sampled_from(["NFC", "NFD"]))
def test_unicode_forms_of_an_answer_are_equal(text, form):
    assert matches(f"x {unicodedata.normalize(form, text)}", [f"x {text}"])
