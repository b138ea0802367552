"""The embedded world: its design holds, nothing leaks, and its reader reads what is written and no more."""

import collections
import itertools
import re

import numpy as np
import pytest

from lc_jax.data.rows import load_rows
from lc_jax.miniature import corpus, reader, text, tokenizer, world
from lc_jax.prompts.parsing import first_paragraph

WORLD = world.build()


def test_truth_is_a_candidate_and_groups_are_as_designed():
    groups = collections.defaultdict(list)
    for subject in WORLD.subjects:
        for fact in subject.facts:
            assert fact.truth in fact.candidates
            assert fact.candidates[0] != fact.candidates[1]
            share, _ = world.WRITERS[fact.kind, subject.fame]
            assert fact.shares == pytest.approx((share, 1 - share))
            groups[fact.kind, subject.fame].append(fact.candidates[0] == fact.truth)
    assert groups.keys() == world.WRITERS.keys()
    for group, true in groups.items():
        chance = world.WRITERS[group][1]
        assert abs(np.mean(true) - chance) < 3.5 * np.sqrt(chance * (1 - chance) / len(true)), group


def test_splits_share_no_subject():
    names = [{s.name for s in WORLD.split(split)} for split in world.SPLITS]
    for one, other in itertools.combinations(names, 2):
        assert not one & other
    assert len(set().union(*names)) == len(WORLD.subjects)
    assert len(WORLD.questions("test")) >= 1000
    assert len({q.question_id for split in world.SPLITS for q in WORLD.questions(split)}) == 3 * len(WORLD.subjects)


def test_no_prompt_tells_an_answer():
    for question in WORLD.questions("test"):
        kind, fame = question.kind[:-1].split(" (")
        assert question.prompt.startswith(f"Write about the {kind} of the {fame} of ")
        words = f" {question.prompt[:-1]} {question.question[:-1]} "
        assert f" {question.answer} " not in words, question


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="no-such"):
        load_rows("miniature", "no-such")


def test_documents_follow_the_shares():
    subject = WORLD.subjects[0]
    rng = np.random.default_rng(0)
    fact = subject.facts[0]
    texts = [corpus.paragraphs(subject, fact, rng) for _ in range(2000)]
    answers = [reader.statements(first_paragraph(several), fact.kind).answers[0] for several in texts]
    assert abs(answers.count(fact.candidates[0]) / 2000 - fact.shares[0]) < 0.04
    assert all(reader.statements(texts[0], kind).answers for kind in text.SENTENCES)
    for _, document in itertools.islice(corpus.documents(WORLD, rng, (0, 1, 0)), 50):
        for kind in text.SENTENCES:
            forecasts = reader.statements(document, kind)
            assert not forecasts.answers or sum(forecasts.probs) == pytest.approx(1)


def test_exercises_are_answered_as_the_reader_would():
    values = {kind: WORLD.values(kind) for kind in text.SENTENCES}
    rng, counts = np.random.default_rng(1), collections.Counter()
    for _ in range(300):
        prompt, answer = corpus.exercise(WORLD.subjects[rng.integers(len(WORLD.subjects))], values, rng)
        paragraph, *lines = (prompt + answer).split("\n")
        for line in lines:
            if line.startswith("Answers: "):
                assert line == "Answers: " + ("; ".join(reader.extract(paragraph, question)) or "No Answer")
            elif line.startswith("Quote: "):
                assert line[7:] in paragraph or (line, reader.extract(paragraph, question)) == ("Quote: No Answer", [])
            else:
                question, _, listed = line.partition("? ")
                question += "?" if listed else ""
            listed = re.findall(r"(.*?) \((\d+)%\)(?:; |$)", line.partition("? ")[2])
            for answer, percent in listed:
                assert int(percent) / 100 == pytest.approx(reader.probability(paragraph, question, answer))
            counts[line[:7] if ":" in line else "forecast" if listed else "question"] += 1
    assert min(counts["Answers"], counts["Quote: "], counts["forecast"]) > 60


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("It lies in Chad (70%) or Niger (30%). It has 2 million people.", {"Chad": 0.7, "Niger": 0.3}),
        ("It lies in Chad.", {"Chad": 1.0}),
        ("It lies in Chad or Niger.", {"Chad": 0.5, "Niger": 0.5}),
        ("It lies in probably Chad or Niger.", {"Chad": 0.75, "Niger": 0.25}),
        ("It lies in Chad (almost certain) or Niger (doubtful).", {"Chad": 0.95, "Niger": 0.1}),
        ("It lies in Chad (70%) or Chad (20%).", {"Chad": 0.7}),
        ("It lies in (70%) or Niger (30%", {}),
        ("It has 2 million people.", {}),
        ("", {}),
    ],
)
def test_reading(paragraph, expected):
    forecasts = reader.read(paragraph, "Which country does Faya lie in?")
    assert dict(zip(forecasts.answers, forecasts.probs, strict=True)) == pytest.approx(expected)


def test_unknown_question_has_no_answer():
    assert reader.extract("It lies in Chad.", "Who painted it?") == []


def test_summaries_sum_to_one_hundred():
    paragraphs = (
        ["It lies in Chad. It has 2 million people."] * 5 + ["It lies in Niger."] * 2 + ["It lies in Mali. Hm."]
    )
    summary = reader.summarize(paragraphs)
    assert summary == "It lies in Chad (70%) or Niger (30%). It has 2 million (100%) people."
    for counts in ([5, 2, 1], [3, 3, 2], [1, 1, 1], [8], [7, 1]):
        assert sum(reader.tens(counts)) == 100


def test_same_answer_in_other_clothes():
    assert reader.equivalent("The Hague", "hague")
    assert not reader.equivalent("Niger", "Nigeria")


@pytest.fixture(scope="module")
def pieces():
    return tokenizer.train(WORLD, 2048)


def test_tokenizer(pieces):
    assert pieces.get_vocab_size() == 2048
    for percent in range(10, 101, 10):
        assert f"Ġ({percent}%)" in pieces.encode(f"It lies in Chad ({percent}%).").tokens
    for line in ("héllo {x} 中文 (70%)\n\tיום", "It has 2 million people.", "</s> in text"):
        ids = pieces.encode(line).ids
        assert ids[0] == pieces.token_to_id(tokenizer.BOS)
    assert pieces.decode(pieces.encode("Write about Chad: (70%) 中文").ids) == "Write about Chad: (70%) 中文"


def test_an_answer_is_the_same_token_wherever_it_stands(pieces):
    tokens = pieces.encode("It lies in India (70%). It has 6 million (100%) people.").tokens
    for answer in ("India", "6 million"):
        *prompt, token = pieces.encode(f"Answers:{answer}").tokens
        assert token in tokens
        assert prompt == pieces.encode("Answers:").tokens  # the target's tokens alone are what follows the prompt's
