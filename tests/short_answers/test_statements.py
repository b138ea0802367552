"""Statements of short answers: literal tables of what is read and what is refused, and properties."""

import itertools

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lc_jax.short_answers.matching import normalise_answer
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
    # Lists, Markdown, labels, places, Unicode.
    *((text, {"France": 0.7}) for text in (
        "1. France (70%)", "1) France (70%)", "- France (70%)", "* France: 70%", "• France (70%)", "**France (70%)**",
        "**Answer:** France (70%)", "**Answer**: *France* (70%)", "### Answer: France (70%)", "`France` (70%)",
        "Country: France (70%)", "The country is France (70%)", "Answer - France (70%)", "Final answer: France (70%)",
        "Answer 1: France (70%)", "A: France (70%)", "The answer is: France (70%)", "It is in France (70%)",
        "It's located in France (70%)", "located in France (70%)", "Located in France (70%)", "in France (70%)",
        "The city is in France (70%)", "The answer is in France (70%)", "the country of France (70%)",
        "a 70% probability of it being France", "There is a 70% chance it's in France", "I am 70% confident in France",
        "I'm 70% confident about France", "70% it's France", "With 70% confidence: France", "France at 70%",
        "France (70％)", "France （70％）", "France：70％", "“France” (70%)", "France [70%]",
        "France (p=0.7)", "France (probability: 0.7)", "France (I'm 70% sure)", "France (confidence level: 70%)",
        "France\n70%", "France\n(70%)", "Answer: France\nConfidence: 70%", "**Answer:** France\n**Confidence:** 70/100",
    )),
    *((text, {"France": None}) for text in (
        "1. France", "**Answer:** France", "Answer - France", "Country: France", "It is in France.",
        "located in France",
    )),
    ("1. France (60%)\n2. Spain (20%)", FRANCE_AND_SPAIN), ("- **France** - 60%\n- **Spain** - 20%", FRANCE_AND_SPAIN),
    ("It is in France (60%) or in Spain (20%)", FRANCE_AND_SPAIN),
    ("World War 2 (70%)", {"World War 2": 0.7}), ("World War 2: 70%", {"World War 2": 0.7}),
    ("1984 - 70%", {"1984": 0.7}), ("Year: 1984 - 70%", {"1984": 0.7}), ("In 1984 (70%)", {"1984": 0.7}),
    ("in the year 1984 (70%)", {"1984": 0.7}), ("On July 4, 1984 (70%)", {"July 4, 1984": 0.7}),
    ("Capital: Canberra (70%)", {"Canberra": 0.7}), ("the city of Canberra (70%)", {"Canberra": 0.7}),
    ("The author was Jane Austen (70%)", {"Jane Austen": 0.7}), ("M*A*S*H (70%)", {"M*A*S*H": 0.7}),
    ("Sa\u0303o Tomé (70%)", {"São Tomé": 0.7}),
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
    ("France (140%)", "over 100%"), ("140% France", "over 100%"), ("France (90-110%)", "over 100%"),
    ("France (70-60%)", "no range"), ("France (8 out of 7)", "no fraction"), ("France (0/0)", "no fraction"),
    ("France (50/50)", "no fraction"), ("France (40/60)", "no fraction"),
    ("France (60%) or Spain (60%)", "sum to 120%"), ("France (51%), Spain (51%)", "sum to 102%"),
    ("France is likely. It is likely Spain.", "sum to 150%"),
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
    # Negations and exceptions with a probability.
    *((text, "'not' is no part of a short answer") for text in (
        "I am 70% sure that it is not France", "There is a 70% chance that it is not France", "Probably not France",
        "The probability that it is not France is 30%", "I doubt that it is not France", "70% not France",
        "France not (70%)", "possibly not in France")),
    *((text, "is no part of a short answer") for text in (
        "NOT France (70%)", "Not France (70%)", "neither France (70%)", "Either France (70%)", "non-France (70%)",
        "anything but France (70%)", "anywhere outside France (70%)", "other than France (70%)", "except France (70%)",
        "none of France (70%)", "I am 70% sure it isn't France", "never France (70%)", "Spain rather than France (70%)",
        "far from France (70%)", "not only France", "It is not necessarily France", "not France but Spain",
        "No, France (70%)", "Not Sure")),
    *((text, "a negation of something that may be no answer") for text in ("It is not shown", "not France, Spain")),
    # No answers.
    *((text, "is no answer") for text in (
        "Others (10%)", "unknown (80%)", "No answer (80%)", "None (100%)", "The answer is wrong (75%)", "Both (20%)",
        "Someone else (30%)", "another country (10%)", "France (70%), Spain (20%), other (10%)", "N/A (90%)",
        "Total: 100%", "Cannot be determined (90%)", "Answer (70%)", "Thank you", "etc (10%)")),
    # Remarks, labels and marks that no table has.
    *((text, "is no part of a short answer") for text in (
        "Yes, France (70%)", "Based on my knowledge, France (70%)", "France, I think (70%)",
        "I'm going with France (70%)",
        "Likely France (70%)", "Could be France (70%)", "In France (70%)", "It lies in France (70%)", "France (guess)",
        "It is part of France (70%)", "a city in France (70%)", "around 1995 (70%)",
        "It was written by Jane Austen (70%)",
        "Nice: France (70%)", "Nice - France (70%)", "(b) France (70%)", "France → 70%", "France 🇫🇷 (70%)",
        "<answer>France</answer> (70%)", "France exactly 70%", "France, say 70%", "France=0.7",
        "France,0.7", "France, 70",
        "P(France) = 70%", "From France (70%)", "France, Spain, or Italy (70%)", "Myanmar (formerly Burma) (70%)",
        "Best answer France (70%)", "Exactly France (70%)", "As an AI, France (70%)")),
    *((text, "in no known form") for text in (
        "France: 0.7", "France 7/10", "France - 0.7", "France 60-70%", "World War 2-70%", "1995 or 1996 (70%)",
        "1995 or so (70%)", "France, fifty-fifty", "France (seventy)", "France (2 to 1)",
        "France (7 of 10)", "France (30% wrong)", "France (not 70%)")),
    ("World War 2 - 70%", "'-' is no part of a short answer"), ("France 60 - 70%", "'-' is no part of a short answer"),
    ("And France (20%)", "a title or a remark"), ("Sure! France (70%)", "several sentences"),
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
        (["France", "France"], "The answer is France (100%)."),
        # Each of the three agrees with two of the other three; nobody agrees with Spain.
        (["Spain", "France", "France", "the France."], "The answer is France (67%)."),
        (["France", "", "france", " ", "Italy", "Italy"], "The answer is France (33%). It could also be Italy (33%)."),
        (["b", "a"], "The answer is a (1%)."),
        (list("eeddbbac"), "The answer is b (14%). It could also be d (14%). It could also be e (14%)."),
        (list("aaaaabbb"), "The answer is a (57%). It could also be b (29%)."),  # 4 / 7 and 2 / 7
        (["France", "I do not know", "Paris is the capital", "France"], "The answer is France (33%)."),
        (["It is Italy.", "France (20%) or Italy (80%)", "It is not Italy. Spain."], "The answer is Italy (50%)."),
        (list("a" * 8 + "b"), "The answer is a (87%)."),  # 87.5, a half down
        (["a"] * 199 + ["b"] * 2, "The answer is a (99%)."),  # half a percent of the others gives b: rounded down to 0
        (["a"] * 299 + ["b"], "The answer is a (100%)."),
    ],
)  # fmt: skip
def test_the_consensus_is_one_statement(samples, text):
    assert write_consensus(samples) == text


def test_samples_without_an_answer_are_counted():
    answers = count_answers(["France", "", " ", "I do not know", "Paris is the capital", "france", "France"])
    assert answers == ((("France", 3),), 5, 2)
    assert answers.percentages() == [50]
    for samples in ([], [""], ["I do not know"], ["70%", "one two " * 7]):
        with pytest.raises(Unreadable, match=f"none of {len(samples)} samples offers a short answer"):
            write_consensus(samples)
    with pytest.raises(Unreadable, match="only one of 3 samples has text: agreement needs two"):
        write_consensus(["", "France", " "])


def test_a_consensus_lists_as_many_answers_as_can_be_read():
    long = [" ".join([letter * 12] * 12) for letter in "abc"]  # 155 characters each
    text = write_consensus(long * 2)
    assert text == f"The answer is {long[0]} (20%). It could also be {long[1]} (20%)."
    assert read(text).probs == (0.2, 0.2)


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
    assume(answers.counts and answers.num_samples > 1)
    pairs = [(*pair, p) for pair, p in zip(answers.counts, answers.percentages(), strict=True)]
    listed = [(answer, p / 100) for answer, count, p in pairs if count > 1][:3] or [(answers.counts[0][0], 0.01)]
    assert list(zip(*read(write_consensus(samples)), strict=True)) == listed
    assert sum(answers.percentages()) <= 100  # rounding can exceed it only with over 200 samples
    others = answers.num_samples - 1
    assert all(abs(p - 100 * (count - 1) / others) <= 0.5 for _, count, p in pairs)


@given(st.lists(st.sampled_from([*NAMES, "france", "FRANCE.", "", "70%"]), min_size=1, max_size=9), st.randoms())
def test_the_order_of_the_samples_changes_nothing(samples, random):
    answers, shuffled = count_answers(samples), random.sample(samples, len(samples))
    assert count_answers(shuffled) == answers
    if answers.counts and answers.num_samples > 1:
        assert write_consensus(shuffled) == write_consensus(samples)


@given(st.lists(st.sampled_from(NAMES), min_size=4, max_size=4, unique_by=normalise_answer), percentages, st.randoms())
def test_the_order_of_the_answers_changes_no_probability(answers, values, random):
    pairs = list(zip(answers, values, strict=False))
    for order in (pairs, random.sample(pairs, len(pairs))):
        members = [f"{answer} ({value}%)" for answer, value in order]
        for text in (", ".join(members), " or ".join(members), "It is " + ". It is ".join(members) + "."):
            statement = read(text)
            assert dict(zip(map(normalise_answer, statement.answers), statement.probs, strict=True)) == {
                normalise_answer(answer): value / 100 for answer, value in pairs
            }


NOT = [
    "not", "not in", "neither", "either", "anything but", "anywhere but", "any country other than", "other than",
    "except", "none of", "never", "hardly", "far from", "outside", "non-", "isn't", "is not",
]  # fmt: skip


@given(
    st.sampled_from(range(18)), st.sampled_from(NOT), st.sampled_from(["France", "the United States", "1995"]),
    st.sampled_from(["70%", "60-70%", "7 in 10"]), st.booleans(), st.booleans(),
)  # fmt: skip
def test_a_negation_with_an_answer_is_never_a_probability_of_it(form, word, answer, prob, before, capital):
    forms = [*AFTER, *BEFORE, "{0} is {1} likely", "The probability that it is {0} is {1}",
             "Probably {0}", "I doubt {0}", "It is {0}",
             "{0}", "It is likely that it is {0}", "1. {0} ({1})", "Answer: {0} - {1}"]  # fmt: skip
    negated = f"{word} {answer}" if before else f"{answer} {word}"
    text = forms[form % len(forms)].format(negated, prob)
    try:
        statement = read(text[0].upper() + text[1:] if capital else text)
    except Unreadable:
        return
    assert statement.probs == (0,)


@given(st.sampled_from([text for text, _ in READABLE if "France" in text]), st.integers(0, 12))
def test_not_anywhere_in_a_statement_is_refused_or_a_negation(text, place):
    words = text.split(" ")
    words.insert(min(place, len(words)), "not")
    try:
        statement = read(" ".join(words))
    except Unreadable:
        return
    assert not any("not" in answer.split() for answer in statement.answers)
    assert 0 in statement.probs or "not sure, but" in text


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
    with pytest.raises(Unreadable, match="over 100%"):
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
    keys = list(map(normalise_answer, statement.answers))
    assert not any(a == b for a, b in itertools.combinations(keys, 2))
