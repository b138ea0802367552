"""Statements of short answers: literal tables of what is read and what is refused, and properties."""

import itertools

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lc_jax.short_answers.matching import normalize
from lc_jax.short_answers.probabilities import WORDS, Unreadable
from lc_jax.short_answers.statements import MAX_CHARS, Statement, count_answers, read, write_consensus

FRANCE_AND_SPAIN = {"France": 0.6, "Spain": 0.2}

READABLE = [
    # The shape of `write_consensus`, with full stops and connectives inside answers.
    ("The answer is France (75%). It could also be Spain (25%).", {"France": 0.75, "Spain": 0.25}),
    ("The answer is St. Louis (75%). It could also be U.S. (25%).", {"St. Louis": 0.75, "U.S.": 0.25}),
    ("The answer is Truth or Dare (40%).", {"Truth or Dare": 0.4}),
    ("The answer is And Then There Were None (40%).", {"And Then There Were None": 0.4}),
    ("The answer is It's a Wonderful Life (9%).", {"It's a Wonderful Life": 0.09}),
    ("The answer is Vitamin C (40%). It could also be D (3%).", {"Vitamin C": 0.4, "D": 0.03}),
    ("The answer is Georgia (country) (40%).", {"Georgia (country)": 0.4}),
    ("The answer is 1995 (100%).", {"1995": 1.0}),
    ("the answer is france (0 %)", {"france": 0.0}),
    # A percentage after its answer.
    *((text, {"France": 0.7}) for text in (
        "France (70%)", "France: 70%", "France, 70%", "France - 70%", "France 70%", "France (about 70%)",
        "France with 70% confidence", "France with a probability of 70 percent", "France (confidence: 70%)",
        "France is 70% likely", "It is France. I am 70% sure.", "It is France, and I'm 70 % sure of it.",
        "France\nConfidence: 70%", "France, confidence: 0.7", "France with a probability of 0.7",
        "My answer is France. My confidence is 70 per cent.", "The probability that it is France is 70%.",
        "I think it is France (70%).", "I am not sure, but I think it is France (70%).", "  **France** (70%)!  ",
        "The most likely answer is France (70%).", "France (0.7)", "France (7/10)", "France (7 out of 10)",
    )),
    # A percentage before its answer.
    *((text, {"France": 0.7}) for text in (
        "There is a 70% chance that it is France.", "I am 70% sure it is France.", "70% France", "70%: France",
        "It is 70% likely that it is France", "With 70% confidence, it is France", "A 70% chance of France",
        "I'm 70% confident that the answer is France.", "There is a 7 in 10 chance that it is France",
        "There's a 7 out of 10 probability that the answer is France",
    )),
    # Ranges have the value of their middle.
    *((text, {"France": 0.65}) for text in (
        "France (60-70%)", "France (60–70 %)", "France (60% to 70%)", "France (between 60 and 70 percent)",
        "between 60% and 70% France", "I am 60 to 70 % sure that it is France", "France: 60 - 70%",
    )),
    ("France (70.5%)", {"France": 0.705}),
    ("France (70,5 %)", {"France": 0.705}),
    # Words of probability.
    *((f"It is {word} that it is France.", {"France": value}) for word, value in WORDS.items()
      if not word.endswith(("ly", "chance", "toss-up")) or word in ("likely", "unlikely")),
    *((text, {"France": value}) for text, value in (
        ("Probably France", 0.75), ("It is probably France.", 0.75), ("possibly France", 0.3),
        ("It is almost certainly France.", 0.95), ("France (almost certain)", 0.95), ("France is unlikely", 0.15),
        ("France (toss-up)", 0.5), ("France is a toss-up", 0.5), ("There is a good chance that it is France", 0.65),
        ("It is unlikely to be France", 0.15), ("I doubt that it is France", 0.1), ("I doubt it is France.", 0.1),
    )),
    # Several answers.
    *((text, FRANCE_AND_SPAIN) for text in (
        "France (60%), Spain (20%)", "France 60% or Spain 20%.", "France: 60%; Spain: 20%", "60% France, 20% Spain",
        "There is a 60% chance that it is France and a 20% chance that it is Spain.",
        "France with 60% confidence and Spain with 20% confidence", "I am 60% sure it is France. Or it is Spain (20%).",
        "France (60%)\nSpain (20%)", "It is France (60%), but it could also be Spain (20%).",
    )),
    ("probably France, possibly Spain", {"France": 0.75, "Spain": 0.3}),  # over 1 by the steps of words only
    ("France (34%), Spain (33%) or Italy (33.4%)", {"France": 0.34, "Spain": 0.33, "Italy": 0.334}),
    # Negations.
    *((text, {"France": 0.0}) for text in (
        "It is not France.", "It isn't France", "not France", "The answer is not France", "It cannot be France.",
        "It is definitely not France.",
    )),
    ("It is not France. It is Spain (60%).", {"France": 0.0, "Spain": 0.6}),
    ("It is not France. It is Spain.", {"France": 0.0, "Spain": None}),
    # No answer.
    *((text, {}) for text in ("I do not know.", "I don't know the answer", "No Answer", "I have no idea.", "unknown")),
    ("I do not know. It could be France (20%).", {"France": 0.2}),
    # No confidence.
    *((text, {"France": None}) for text in ("France", "France.", " “France” ", "It is France.", "Answer: France")),
    ("Life Is Beautiful", {"Life Is Beautiful": None}),
    ("To be or not to be", {"To be or not to be": None}),
    ("It (2017)", {"It (2017)": None}),
]  # fmt: skip

REFUSED = [
    ("", "empty"), (" \n", "empty"), ("x" * (MAX_CHARS + 1), "more than 400 characters"),
    *((text, "a probability without an answer") for text in (
        "70%", "(70%)", "I am 70% sure.", "The answer is 70%.", "It is likely", "It is a toss-up.", "About 70%",
        "???")),
    ("France (140%)", "over 100 %"), ("140% France", "over 100 %"), ("France (90-110%)", "over 100 %"),
    ("France (70-60%)", "no range"), ("France (8 out of 7)", "no fraction"), ("France (0/0)", "no fraction"),
    ("France (60%) or Spain (60%)", "sum to 120 %"), ("France (51%), Spain (51%)", "sum to 102 %"),
    ("France is likely. It is likely Spain.", "sum to 150 %"),
    ("The answer is France (70%). It could also be the FRANCE (20%).", "named twice"),
    ("It is not France. It is France (70%).", "named twice"),
    ("France (70%). It is Spain.", "an answer without a probability"),
    ("It is Spain. It is France.", "an answer without a probability"),
    ("I do not know. It is Spain.", "an answer without a probability"),
    *((text, "in no known form") for text in (
        "France (70%) or Spain", "France (1,000%)", "France (-5%)", "France (at least 70%)", "France (50% each)",
        "France or Spain, 50% each", "at least 70% France", "It is not France (70%)", "France (70%) 20%",
        "France (%)")),
    *((text, "is no part of a short answer") for text in (
        "very likely France", "It is most likely France", "It is not likely France", "perhaps France", "Maybe France",
        "Certainly France", "It is certainly France (90%)", "I am sure it is France", "I don't think it is France",
        "Paris is the capital of France", "The answer is", "likely France (70%)", "I doubt that it is France (70%)",
        "France, at least 70%", "I know that France is 70% likely", "It is a toss-up between France and Spain",
        "It is France, not Spain (70%)")),
    ("It could be France", "doubt without a probability"),
    ("The answer is France (7", "parentheses"), ("France (75)", "parentheses"),
    ("The capital. Paris (70%)", "several sentences"), ("one two " * 7, "more than 12 words"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "probs"), READABLE, ids=[text for text, _ in READABLE])
def test_a_statement_is_read(text, probs):
    assert read(text) == Statement(tuple(probs), tuple(probs.values()))


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[text[:60] for text, _ in REFUSED])
def test_what_the_rules_do_not_know_is_refused_with_the_reason(text, reason):
    with pytest.raises(Unreadable) as caught:
        read(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        (["France"], "The answer is France (100%)."),
        (["Spain", "France", "France", "the France."], "The answer is France (75%). It could also be Spain (25%)."),
        (["France", "", "france", " ", "France", "Italy"], "The answer is France (75%). It could also be Italy (25%)."),
        (["b", "a"], "The answer is a (50%). It could also be b (50%)."),
        (list("eeddbbac"), "The answer is b (25%). It could also be d (25%). It could also be e (25%)."),
        (["France", "I do not know", "Paris is the capital", "France"], "The answer is France (50%)."),
        (["France (20%) or Italy (80%)", "It is Spain."], "The answer is Italy (50%). It could also be Spain (50%)."),
        (["It is not France. It is Spain."], "The answer is Spain (100%)."),
        (["a"] * 7 + ["b"], "The answer is a (87%). It could also be b (12%)."),  # 87.5 and 12.5, halves down
        # Rounded to the nearest, 29 + 29 + 29 + 14 would be 101.
        (list("aabbccd"), "The answer is a (28%). It could also be b (28%). It could also be c (28%)."),
        (["a", "a", "b"], "The answer is a (67%). It could also be b (33%)."),
        (["a"] * 299 + ["b"], "The answer is a (100%)."),
    ],
)  # fmt: skip
def test_the_consensus_is_one_statement(samples, text):
    assert write_consensus(samples) == text


def test_samples_without_an_answer_are_counted():
    answers = count_answers(["France", "", " ", "I do not know", "Paris is the capital", "france", "France"])
    assert answers == ((("France", 3),), 5, 2)
    assert answers.percentages() == [60]
    for samples in ([], [""], ["I do not know"], ["70%", "one two " * 7]):
        with pytest.raises(Unreadable, match=f"none of {len(samples)} samples offers a short answer"):
            write_consensus(samples)


def test_offers_come_by_probability_and_the_probability_of_an_alias_is_its_answers():
    statement = read("It is not Italy. It is Spain (20%), France (60%) or Malta (20%)")
    assert statement.offers() == [("France", 0.6), ("Spain", 0.2), ("Malta", 0.2)]
    assert statement.probs_of(["the french republic", "FRANCE!"]) == [0.6]
    assert (statement.probs_of(["Peru"]), statement.probs_of(["Italy"])) == ([], [0.0])
    assert statement.probs_of(["France", "Spain"]) == [0.2, 0.6]
    assert (read("France").probs_of(["France"]), read("France").probs_of(["Spain"])) == ([None], [])
    assert read("France").offers() == [("France", None)]


# --- properties -------------------------------------------------------------------------------------------------------

NAMES = [
    "France", "Spain", "St. Louis", "U.S.", "Truth or Dare", "Bosnia and Herzegovina", "It", "1995", "São Tomé",
    "Dr. No", "Oklahoma!", "Georgia (country)", "rock 'n' roll", "C", "D", "the The", "Smith, John", "3.5",
]  # fmt: skip
names = st.sampled_from(NAMES) | st.text(min_size=1, max_size=30)
percentages = st.lists(st.integers(0, 100), min_size=1, max_size=4).filter(lambda values: sum(values) <= 100)


@given(st.lists(names, max_size=9))
@example(["The answer is a (7%)", "It could also be", "a. It is b", "or", "\x1c"])
def test_a_consensus_reads_back_as_the_counts_of_the_samples(samples):
    answers = count_answers(samples)
    assert answers.num_empty == sum(not sample.strip() for sample in samples)
    assert answers.num_samples + answers.num_empty == len(samples)
    assume(answers.counts)
    listed = [(answer, p / 100) for (answer, _), p in zip(answers.counts, answers.percentages(), strict=True)][:3]
    statement = read(write_consensus(samples))
    assert list(zip(*statement, strict=True)) == listed
    assert sum(answers.percentages()) <= 100
    assert all(abs(p - 100 * count / answers.num_samples) < 1 for (_, count), p in
               zip(answers.counts, answers.percentages(), strict=True))  # fmt: skip


@given(st.lists(st.sampled_from([*NAMES, "france", "FRANCE.", "", "70%"]), min_size=1, max_size=9), st.randoms())
def test_the_order_of_the_samples_changes_nothing(samples, random):
    answers, shuffled = count_answers(samples), random.sample(samples, len(samples))
    assert count_answers(shuffled) == answers
    if answers.counts:
        assert write_consensus(shuffled) == write_consensus(samples)


@given(st.lists(st.sampled_from(NAMES), min_size=4, max_size=4, unique_by=normalize), percentages, st.randoms())
def test_the_order_of_the_answers_changes_no_probability(answers, values, random):
    pairs = list(zip(answers, values, strict=False))
    for order in (pairs, random.sample(pairs, len(pairs))):
        members = [f"{answer} ({value}%)" for answer, value in order]
        for text in (", ".join(members), " or ".join(members), "It is " + ". It is ".join(members) + "."):
            statement = read(text)
            assert dict(zip(map(normalize, statement.answers), statement.probs, strict=True)) == {
                normalize(answer): value / 100 for answer, value in pairs
            }


AFTER = ["{} ({})", "{}: {}", "{} with {} confidence", "It is {}. I am {} sure.", "{}\nConfidence: {}"]
BEFORE = ["{1} {0}", "I am {1} sure it is {0}.", "There is a {1} chance that it is {0}", "With {1} probability, {0}"]
PLAIN = ["France", "St. Louis", "Truth or Dare", "Bosnia and Herzegovina", "1995"]


@given(
    st.sampled_from(AFTER + BEFORE),
    st.sampled_from(PLAIN),
    st.integers(0, 1000),
    st.sampled_from(["%", " %", " percent"]),
)
def test_every_percentage_is_read_in_every_form(form, answer, tenths, unit):
    text = form.format(answer, f"{tenths / 10:g}{unit}")
    assert read(text) == ((answer,), (pytest.approx(tenths / 1000),))


@given(
    st.sampled_from(AFTER + BEFORE),
    st.integers(0, 100),
    st.integers(0, 100),
    st.sampled_from(["-", "–", " - ", " to "]),
)
def test_a_range_is_its_middle_and_one_that_falls_is_refused(form, low, high, dash):
    text = form.format("France", f"{low}{dash}{high}%")
    if low <= high and high:
        assert read(text).probs == (pytest.approx((low + high) / 200),)
    else:
        with pytest.raises(Unreadable, match="no range"):
            read(text)


@given(st.sampled_from(AFTER + BEFORE), st.integers(101, 999))
def test_no_probability_is_over_one(form, percentage):
    with pytest.raises(Unreadable, match="over 100 %"):
        read(form.format("France", f"{percentage}%"))


WORDS_OF_STATEMENTS = [
    "The answer is", "It is", "France", "Spain", "(70%)", "60%", "20", "%", ".", ",", "or", "and", "not", "likely",
    "sure", "It could also be", "probably", "I am", "-", "7 out of 10", "with", "confidence", "\n",
]  # fmt: skip


@given(st.text(max_size=80) | st.lists(st.sampled_from(WORDS_OF_STATEMENTS), max_size=14).map(" ".join))  # fmt: skip
def test_any_text_is_read_as_probabilities_or_refused(text):
    """The answers read are distinct and hold no percentages; their probabilities sum to 1 at most."""
    try:
        statement = read(text)
    except Unreadable:
        return
    probs = [p for p in statement.probs if p is not None]
    assert all(0 <= p <= 1 for p in probs)
    assert sum(probs) <= 1.1
    assert statement.probs.count(None) <= 1
    assert not any("%" in answer or not answer.strip() for answer in statement.answers)
    keys = list(map(normalize, statement.answers))
    assert not any(a == b for a, b in itertools.combinations(keys, 2))
