import pytest

from lc_jax.prompts import Invalid, query

ASKED = query.request_fields("Who painted The Night Watch?", ["Rembrandt", "Rembrandt van Rijn", "🎨"])


def parse(reply, fields=ASKED):
    return query.PROMPT.parse(reply, fields)


@pytest.mark.parametrize("reply", [
    "Write a paragraph about the painter of The Night Watch.",
    ' "Write a paragraph about the painter of The Night Watch." ',
    "Question 2: Write a paragraph about the painter of The Night Watch.",
    '{"request": "Write a paragraph about the painter of The Night Watch."}',
])  # fmt: skip
def test_a_query_is_one_line_that_keeps_the_secret(reply):
    assert parse(reply) == "Write a paragraph about the painter of The Night Watch."


@pytest.mark.parametrize(("reply", "reason"), [
    ("Write a paragraph about REMBRANDT's Night Watch.", "gives the answer away: 'Rembrandt'"),
    ("Write a paragraph about the painter 🎨 of it.", "gives the answer away: '🎨'"),
    ("Write a paragraph about .", "it does not go"),
    ("Who painted The Night Watch?", "it does not go"),
    ("Write a paragraph about it.\nOr rather not.", "one line was asked for, the reply has 2"),
    ("", "one line"),
    ('{"request": 3}', "text was asked for"),
])  # fmt: skip
def test_what_is_no_query(reply, reason):
    with pytest.raises(Invalid, match=reason):
        parse(reply)


def test_what_the_question_says_itself_is_no_secret():
    blur = query.request_fields("Was it Blur or Oasis that recorded Parklife?", ["Blur", "Parklife by Blur", ""])
    fair = "Write a paragraph about which of Blur and Oasis recorded Parklife."
    assert parse(fair, blur) == fair
    with pytest.raises(Invalid, match="gives the answer away"):
        parse("Write a paragraph about Parklife by Blur.", blur)
    assert query.gives_away("a paragraph about Menton", ["Men", "to"], "Where?") == ""
    assert query.gives_away("about Antonín Dvořák.", ["dvorak"], "Who?") == "dvorak"


def test_clues_become_questions():
    clue = {"category": "ISLANDS", **query.request_fields("Napoleon was born on this one in 1769", ["Corsica"])}
    assert "Category: ISLANDS" in query.CLUE.render(**clue)
    good = "On which island was Napoleon born in 1769?"
    assert query.CLUE.parse(good, clue) == query.CLUE.parse(f'{{"question": "{good}"}}', clue) == good
    for bad in ("On which island was Napoleon born?\nCorsica?", "Was Napoleon born on Corsica?", "Napoleon's island."):
        with pytest.raises(Invalid):
            query.CLUE.parse(bad, clue)
