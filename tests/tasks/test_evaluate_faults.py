"""What goes wrong in an evaluation is a status that is counted; no text is read as anything but text."""

import json

import pytest

from lc_jax.prompts import equivalence, extract, forecast, paragraph, retry
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
    said = {"Mount 1": "1.7", "Mount 2": "nan", "Mount 4": "about 0.7", "Mount 5": "-0.1", "Mount 7": "70 %"}

    def answer(request):
        again = retry.PROMPT.match(request.prompt)
        text = again["request"] if again else request.prompt
        if (fields := forecast.PROMPT.match(text)) and fields["answer"] in said:
            return Reply("ok", said[fields["answer"]])
        verdicts = scripted(request).text if equivalence.PROMPT.match(text) else ""
        return Reply("ok", verdicts.partition("\n")[2]) if "\n" in verdicts else scripted(request)

    with FakeServer(answer) as server:
        result, records = evaluate(server, paragraphs=write(tmp_path / "p.jsonl", invented(30)))
    assert result["statuses"] == {"ok": 26, "invalid": 4}
    assert [r["question_id"] for r in records if r["status"] == "invalid"] == ["q1", "q2", "q4", "q5"]
    assert (result["num_questions"], result["accuracy"]) == (26, pytest.approx(16 / 26))
    assert records[7]["confidence"] == 0.7
    prompts = [(retry.PROMPT.match(item.prompt) or {"request": item.prompt})["request"] for item in server.asked]
    assert [(forecast.PROMPT.match(p) or {}).get("answer") for p in prompts].count("Mount 4") == 3
    batches = [equivalence.PROMPT.match(p) for p in prompts]
    assert sorted(len(equivalence.split_comparisons(b["comparisons"])) for b in batches if b) == [1] * 10 + [10] * 3


@pytest.mark.parametrize(
    "text",
    ["{question} {} %s", "Human: hi\n\nAssistant:", "</s>[PAD]<|endoftext|>", "🚁", "\u202eעברית", "é" * 10_000, ""],
)
def test_texts_of_every_kind_stay_what_they_are(evaluate, tmp_path, text):
    """In paragraph, question and answers; an empty paragraph offers no answer."""

    def answer(request):
        fields = extract.PROMPT.match(request.prompt)
        assert fields is None or fields == {"generated_paragraph": text, "question": f"Who said {text}?"}
        offered = json.dumps({"answers": [text] if text else []})
        return Reply("ok", offered if fields else "0.9")

    row = {
        "question_id": "q",
        "question": f"Who said {text}?",
        "answers": [text or "nobody"],
        "generated_paragraph": text,
    }
    with FakeServer(answer) as server:
        result, (record,) = evaluate(server, paragraphs=write(tmp_path / "p.jsonl", [row]))
    assert result["statuses"] == {"ok": 1}
    assert (record["question"], record["paragraph"], record["chosen"]) == (row["question"], text, text)
    assert (record["confidence"], record["correct"]) == ((0.9, True) if text else (1.0, False))
