"""Faults of an evaluation become statuses that are counted; no text is read as anything but text."""

import dataclasses
import json

import pytest

from lc_jax.evaluation import biography
from lc_jax.prompts import equivalence, extract, forecast, paragraph, retry
from lc_jax.tasks import evaluate_biography
from lc_jax.types import Reply
from tests.llm.fake_server import FakeServer, Fault
from tests.tasks.test_evaluate_qa import invented, scripted, write
from tests.tasks.test_pipeline import rows


def test_a_paragraph_that_was_refused_is_a_status(evaluate, tmp_path):
    path = write(
        tmp_path / "questions.jsonl",
        [{k: row[k] for k in ("question_id", "question", "answers")} for row in invented(4)],
    )

    def fault(number, prompt):
        return Fault("refusal") if "peak 2?" in prompt and paragraph.PROMPT.match(prompt) else None

    with FakeServer(scripted, fault=fault) as server:
        result, records = evaluate(server, questions__source=path, writer__name="openai/gpt-4.1", strategy="0-shot")
    assert result["statuses"] == {"ok": 3, "refused": 1}
    assert [record["status"] for record in records] == ["ok", "ok", "refused", "ok"]
    assert result["num_questions"] == 3


def test_failed_requests_leave_no_result_until_they_are_accepted(evaluate, tmp_path):
    def fault(number, prompt):
        return Fault("status", 400) if "K3" in prompt and forecast.PROMPT.match(prompt) else None

    path = write(tmp_path / "p.jsonl", invented(6))
    with FakeServer(scripted, fault=fault) as server:
        with pytest.raises(ValueError, match=r"1 of 6 questions failed.*run again.*accept_failed=true"):
            evaluate(server, paragraphs=path)
        assert not (tmp_path / "out" / "result.json").exists()
        assert [record["status"] for record in rows(tmp_path / "out" / "records.jsonl")].count("failed") == 1
        result, _ = evaluate(server, paragraphs=path, accept_failed=True)
    assert result["statuses"] == {"ok": 5, "failed": 1}


def test_what_no_parser_takes_is_asked_again_and_then_counted(evaluate, tmp_path):
    """Probabilities that are none, and nine verdicts for ten answers: never a score."""
    confidences = {"Mount 1": "1.7", "Mount 2": "nan", "Mount 4": "about 0.7", "Mount 5": "-0.1", "Mount 7": "70 %"}

    def answer(request):
        again = retry.PROMPT.match(request.prompt)
        text = again["request"] if again else request.prompt
        if (fields := forecast.PROMPT.match(text)) and fields["answer"] in confidences:
            return Reply("ok", confidences[fields["answer"]])
        verdicts = scripted(request).text if equivalence.PROMPT.match(text) else ""
        return Reply("ok", verdicts.partition("\n")[2]) if "\n" in verdicts else scripted(request)

    with FakeServer(answer) as server:
        result, records = evaluate(server, paragraphs=write(tmp_path / "p.jsonl", invented(30)))
    assert result["statuses"] == {"ok": 26, "invalid": 4}
    assert [r["question_id"] for r in records if r["status"] == "invalid"] == ["q1", "q2", "q4", "q5"]
    assert (result["num_questions"], result["accuracy"]) == (26, pytest.approx(16 / 26))
    assert records[7]["confidence"] == 0.7
    prompts = [(retry.PROMPT.match(item.prompt) or {"request": item.prompt})["request"] for item in server.exchanges]
    assert [(forecast.PROMPT.match(p) or {}).get("answer") for p in prompts].count("Mount 4") == 3
    batches = [equivalence.PROMPT.match(p) for p in prompts]
    assert sorted(len(equivalence.split_comparisons(b["comparisons"])) for b in batches if b) == [1] * 10 + [10] * 3


@pytest.mark.parametrize(
    "text",
    ["{question} {} %s", "Human: hi\n\nAssistant:", "</s>[PAD]<|endoftext|>", "🚁", "\u202eעברית", "é" * 10_000],
)
def test_texts_of_every_kind_stay_what_they_are(evaluate, tmp_path, text):
    """In paragraph, question and answers."""

    def answer(request):
        fields = extract.PROMPT.match(request.prompt)
        assert fields is None or fields == {"generated_paragraph": text, "question": f"Who said {text}?"}
        offered = json.dumps({"answers": [text]})
        return Reply("ok", offered if fields else "0.9")

    row = {
        "question_id": "q",
        "question": f"Who said {text}?",
        "answers": [text],
        "generated_paragraph": text,
    }
    with FakeServer(answer) as server:
        result, (record,) = evaluate(server, paragraphs=write(tmp_path / "p.jsonl", [row]))
    assert result["statuses"] == {"ok": 1}
    assert (record["question"], record["paragraph"], record["chosen"]) == (row["question"], text, text)
    assert (record["confidence"], record["correct"]) == (0.9, True)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_paragraph_has_a_status_and_no_score(evaluate, tmp_path, text):
    questions = invented(4)
    questions[1]["generated_paragraph"] = text
    with FakeServer(scripted) as server:
        result, records = evaluate(server, paragraphs=write(tmp_path / "p.jsonl", questions))
    assert result["statuses"] == {"ok": 3, "invalid": 1}
    assert (records[1]["status"], records[1]["detail"]) == ("invalid", "the paragraph is empty")
    assert (records[1]["confidence"], result["num_questions"]) == (None, 3)


SAME_ID = [
    {"id": "o56j4qio", "question": "What is the odds ratio for hypertension?", "answer": 2.36, "said": "2.36 (90%)"},
    {"id": "o56j4qio", "question": "What is the odds ratio for diabetes?", "answer": "2.07", "said": "9.99 (60%)"},
    {"id": "a1", "question": "What is incubation?", "answer": ["120 hours", "5 days"], "said": "5 days (80%)"},
]


def same_id(*names):
    """The rows with the columns `names`."""
    rows = [row | {"generated_paragraph": f"It is {row['said']}."} for row in SAME_ID]
    return [{name: row[name] for name in ("id", *names)} for row in rows]


@pytest.mark.parametrize("files", [1, 2])
def test_rows_that_share_an_id_are_all_scored(evaluate, tmp_path, files):
    names = ("question", "answer", "generated_paragraph")
    settings = {"paragraphs": write(tmp_path / "p.jsonl", same_id(*(names if files == 1 else names[2:])))}
    if files == 2:
        settings["questions__source"] = write(tmp_path / "q.jsonl", same_id(*names[:2]))
    with FakeServer(scripted) as server:
        result, records = evaluate(server, **settings)
        judged = [item for item in server.exchanges if equivalence.PROMPT.match(item.prompt)]
    assert [r["question_id"] for r in records] == ["o56j4qio", "o56j4qio#2", "a1"]
    assert [(r["chosen"], r["confidence"], r["correct"]) for r in records] == [
        ("2.36", 0.9, True),
        ("9.99", 0.6, False),
        ("5 days", 0.8, True),
    ]
    assert (result["num_questions"], result["accuracy"]) == (3, pytest.approx(2 / 3))
    assert len(judged) == 1  # of the wrong one only: any accepted answer matches without a judge


def test_several_paragraphs_of_one_question_are_several_records(evaluate, tmp_path):
    questions = write(tmp_path / "q.jsonl", same_id("question", "answer")[2:])
    texts = [{"question_id": "a1", "generated_paragraph": f"It is {n} days ({n}0%)."} for n in (5, 6, 7)]
    with FakeServer(scripted) as server:
        result, records = evaluate(
            server, paragraphs=write(tmp_path / "p.jsonl", texts), questions__source=questions, limit=1
        )
    assert [r["question_id"] for r in records] == ["a1", "a1#2", "a1#3"]
    assert [r["correct"] for r in records] == [True, False, False]
    assert result["accuracy"] == pytest.approx(1 / 3)


def test_paragraphs_of_other_questions_are_refused_with_ids_of_both(evaluate, tmp_path):
    questions = write(tmp_path / "q.jsonl", same_id("question", "answer"))
    texts = write(tmp_path / "p.jsonl", [{"question_id": "x7", "generated_paragraph": "It is 5."}])
    with pytest.raises(ValueError, match=r"p.jsonl is an id of the questions in .*q.jsonl.*'x7' and 'o56j4qio'"):
        evaluate(None, paragraphs=texts, questions__source=questions)


def test_a_reader_that_finds_nothing_warns(evaluate, tmp_path):
    texts = [row | {"generated_paragraph": "Nothing is known."} for row in invented(20)]
    with FakeServer(scripted) as server:
        result, _ = evaluate(server, paragraphs=write(tmp_path / "p.jsonl", texts))
    assert any("found no answer in 20 of 20 paragraphs" in note for note in result["notes"])
    texts[:3] = invented(3)
    with FakeServer(scripted) as server:
        result, _ = evaluate(server, paragraphs=write(tmp_path / "q.jsonl", texts))
    assert not any("found no answer" in note for note in result["notes"])


ANSWERS = [
    {"answer": ["14 December", "December"]},  # NQ-open
    {"possible_answers": '["14 December", "December"]'},  # PopQA
    {"answers": {"text": ["14 December", "December"], "answer_start": [3, 6]}},  # SQuAD
    {"answer": {"value": "14 December", "aliases": ["December"], "normalized_aliases": ["december"]}},  # TriviaQA
]


@pytest.mark.parametrize("answers", ANSWERS)
def test_any_accepted_answer_is_right_without_a_judge(evaluate, tmp_path, answers):
    row = {"question": "When was the last moon walk?", "generated_paragraph": "It is December (80%)."} | answers
    with FakeServer(scripted) as server:
        result, (record,) = evaluate(server, paragraphs=write(tmp_path / "p.jsonl", [row]))
        judged = [item for item in server.exchanges if equivalence.PROMPT.match(item.prompt)]
    assert (record["chosen"], record["correct"], result["accuracy"]) == ("December", True, 1.0)
    assert not judged


def nested(kind):
    """One document as SQuAD and TriviaQA publish theirs, with the paragraph that is evaluated next to the question."""
    text = {"generated_paragraph": "It is December (80%)."}
    if kind == "squad":
        qa = {"id": "s1", "question": "When?", "answers": [{"text": "14 December"}, {"text": "December"}]} | text
        return {"version": "1.1", "data": [{"title": "Moon", "paragraphs": [{"context": "C", "qas": [qa]}]}]}
    answer = {"Value": "14 December", "Aliases": ["December"], "NormalizedAliases": ["december"]}
    return {"Domain": "Web", "Data": [{"QuestionId": "t1", "Question": "When?", "Answer": answer} | text]}


@pytest.mark.parametrize(("kind", "name"), [("squad", "s1"), ("trivia_qa", "t1")])
def test_nested_files_are_evaluated_as_they_are_published(evaluate, tmp_path, kind, name):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(nested(kind)))
    with FakeServer(scripted) as server:
        _, (record,) = evaluate(server, paragraphs=str(path))
    assert (record["question_id"], record["chosen"], record["correct"]) == (name, "December", True)


def test_a_reader_that_finds_no_claim_in_nearly_all_biographies_is_warned_of(caplog):
    def records(num_silent, num_read):
        texts = [biography.Biography(f"b{i}", f"Entity {i}", "Text.") for i in range(num_silent + num_read + 1)]
        silent = [biography.whole(text, "no_claims") for text in texts[:num_silent]]
        # One that nobody read counts to neither.
        others = [biography.whole(text, "unverifiable") for text in texts[num_silent + num_read :]]
        claims = [biography.whole(text, "ok") for text in texts[num_silent : num_silent + num_read]]
        return silent + others + [dataclasses.replace(record, claims=("a claim",)) for record in claims] * 2

    assert evaluate_biography._unread(records(8, 1), "r") == ()  # 8 of 9
    assert evaluate_biography._unread(records(0, 0), "r") == ()
    (words,) = evaluate_biography._unread(records(9, 1), "r")  # 9 of 10
    assert words.startswith("the reader r found no claim in 9 of 10 biographies: ")
    assert words in caplog.text
