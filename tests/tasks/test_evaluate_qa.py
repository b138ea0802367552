"""Evaluation from end to end: paragraphs from a file, a checkpoint or an API, read and judged over HTTP."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from configs import base
from lc_jax.evaluation import metrics
from lc_jax.llm import AnnotatorError
from lc_jax.prompts import equivalence, extract, forecast, in_context, retry, strategies
from lc_jax.tasks import evaluate_qa
from lc_jax.types import Reply
from tests.llm.fake_server import KEY, FakeServer
from tests.tasks.test_pipeline import rows, run
from tests.test_configs import config_of

ROOT = Path(__file__).resolve().parents[2]


def scripted(request):
    """A reader of paragraphs that go "It is A (60%) or B (40%)."; as a writer it always writes the same."""
    again = retry.PROMPT.match(request.prompt)
    text = again["request"] if again else request.prompt
    if fields := extract.PROMPT.match(text):
        options = offered(fields["generated_paragraph"])
        return Reply("ok", "; ".join(options) or "No Answer")
    if fields := forecast.PROMPT.match(text):
        return Reply("ok", f"{offered(fields['generated_paragraph']).get(fields['answer'], 0)}%")
    if fields := equivalence.PROMPT.match(text):
        items = equivalence.split_comparisons(fields["comparisons"])
        return Reply("ok", "\n".join("yes" if i.candidate.endswith(i.answer) else "no" for i in items))
    return Reply("ok", "It is Mount Everest (70%) or K2 (30%).")


def offered(text):
    """{answer: per cent} in the order of the text; without percentages 100."""
    inside = text.partition("It is ")[2].removesuffix(".")
    if "%)" not in inside:
        return {inside: 100} if inside else {}
    return {name: int(share) for name, share in re.findall(r"(.+?) \((\d+)%\)(?: or |$)", inside)}


@pytest.fixture
def questions(assets):
    """300 real questions: {id, question, answers}."""
    with gzip.open(assets / "triviaqa_test.jsonl.gz", "rt") as file:
        return [json.loads(line) for line, _ in zip(file, range(300), strict=False)]


def invented(number):
    """A few questions with paragraphs, where none are to be had."""
    return [
        {"question_id": f"q{i}", "question": f"Which is peak {i}?", "answers": [f"Peak {i}", f"Mount {i}"]}
        | {"generated_paragraph": f"It is Mount {i} (80%) or K{i} (20%)." if i % 3 else f"It is K{i} (60%)."}
        for i in range(number)
    ]


def write(path, question_rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in question_rows))
    return str(path)


def counted(records):
    """(accuracy, ECE of ten values by a plain loop), counted from the records alone."""
    bins = {}
    for record in records:
        bins.setdefault(record["confidence"], []).append(record["correct"])
    gaps = [abs(sum(verdicts) - confidence * len(verdicts)) for confidence, verdicts in bins.items()]
    return sum(record["correct"] for record in records) / len(records), sum(gaps) / len(records)


def test_300_real_questions_from_a_file(evaluate, questions, tmp_path):
    for i, row in enumerate(questions):
        true, alias = row["answers"][0], row["answers"][-1]
        texts = (f"It is {alias} (70%) or nobody (30%).", f"It is the {true} (90%).", "It is nobody (80%).", "No idea.")
        row["text"] = texts[i % 4]
    path = write(tmp_path / "mine.jsonl", questions)
    with FakeServer(scripted) as server:
        result, records = evaluate(server, paragraphs=path, column="text", data="TriviaQA")
        num_replies = server.num_answered
        assert evaluate(server, paragraphs=path, column="text", data="TriviaQA")[0]["ece"] == result["ece"]
        assert server.num_answered == num_replies  # all from the store
    assert (result["num_questions"], result["statuses"]) == (300, {"ok": 300})
    assert [record["question_id"] for record in records] == [row["question_id"] for row in questions]
    assert [r["chosen"] for r in records[:4]] == [
        questions[0]["answers"][-1],
        f"the {questions[1]['answers'][0]}",
        "nobody",
        "",
    ]
    assert [r["confidence"] for r in records[:4]] == [0.7, 0.9, 0.8, 1.0]
    pairs = [(0.7, True), (0.9, True), (0.8, False), (1.0, False)]  # what the texts say, and whether they are right
    assert [(record["confidence"], record["correct"]) for record in records] == pairs * 75
    assert counted(records) == pytest.approx((0.5, (0.3 + 0.1 + 0.8 + 1.0) / 4))
    assert (result["accuracy"], result["ece"]) == pytest.approx((0.5, 0.55))
    assert result["accuracy_low"] < 0.5 < result["accuracy_high"]
    assert (result["judge"], result["data"]) == ("openai/gpt-4.1", "TriviaQA")
    assert result["cost"]["calls"] == num_replies
    items = [item for item in server.exchanges if equivalence.PROMPT.match(item.prompt)]
    unclear = sum(len(equivalence.split_comparisons(equivalence.PROMPT.match(a.prompt)["comparisons"])) for a in items)
    assert unclear < 160  # what matches an alias is not paid for
    assert len(items) == -(-unclear // 10)


def test_questions_and_paragraphs_may_come_from_two_files(evaluate, tmp_path):
    question_rows = invented(8)
    texts = [{"id": row["question_id"], "generated_paragraph": row.pop("generated_paragraph")} for row in question_rows]
    with FakeServer(scripted) as server:
        source = write(tmp_path / "questions.jsonl", question_rows)
        result, records = evaluate(
            server, paragraphs=write(tmp_path / "p.jsonl", texts[2:]), questions__source=source, forecast_truth=True
        )
    assert result["statuses"] == {"ok": 6, "missing": 2}
    assert [record["question_id"] for record in records] == [f"q{i}" for i in range(2, 8)]
    assert records[0]["prompt"] == "Write a paragraph about the answer to this question: Which is peak 2?"
    assert {record["truth_prob"] for record in records} == {0.0}


def test_a_provider_writes_by_a_strategy(evaluate, tmp_path):
    path = write(
        tmp_path / "questions.jsonl",
        [{k: row[k] for k in ("question_id", "question", "answers")} for row in invented(3)],
    )
    with FakeServer(scripted) as server:
        evaluate(server, questions__source=path, writer__name="openai/gpt-4.1-mini", strategy="summary-8-shot")
        matches = [in_context.CONFIDENT.match(item.prompt) for item in server.exchanges]
    assert len([fields for fields in matches if fields]) == 3
    records = rows(tmp_path / "out" / "records.jsonl")
    assert {record["paragraph"] for record in records} == {"It is Mount Everest (70%) or K2 (30%)."}
    assert {record["confidence"] for record in records} == {0.7}


def test_a_dry_run_and_a_budget(evaluate, tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", invented(6))
    with FakeServer(scripted) as server:
        with pytest.raises(FileNotFoundError):
            evaluate(server, paragraphs=path, dry_run=True)  # leaves no result
        table = capsys.readouterr().out
        assert all(step in table for step in ("eval_extract", "eval_forecast", "equivalence"))
        assert not server.exchanges
        assert not list(tmp_path.glob("out/*"))
        with pytest.raises(AnnotatorError, match="may cost more than"):
            evaluate(server, paragraphs=path, budget=0.01)
        num_replies = server.num_answered
        result, _ = evaluate(server, paragraphs=path)
        assert server.num_answered > num_replies
    assert result["num_questions"] == 6


def test_wordings_of_a_folder_take_the_place_of_ours(evaluate, tmp_path):
    (tmp_path / "wordings").mkdir()
    (tmp_path / "wordings" / "extract_answers_claude_10shot.txt").write_text("Read {generated_paragraph}. {question}")

    def answer(request):
        return Reply("ok", "K2") if request.prompt.startswith("Read It is") else scripted(request)

    with FakeServer(answer) as server:
        _, records = evaluate(
            server, paragraphs=write(tmp_path / "p.jsonl", invented(3)), prompt_dir=str(tmp_path / "wordings")
        )
    assert {tuple(record["answers"]) for record in records} == {("K2",)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, r"give one of.*given: \[\]|Who writes"),
        ({"paragraphs": "p.jsonl", "model": "m"}, r"given: \['paragraphs', 'model'\]"),
        ({"writer__name": "openai/gpt-4.1"}, r"give --config.questions.source=questions.jsonl \(rows of `question`"),
        (
            {"writer__name": "openai/x", "strategy": "0-shot", "top_p": 0.8, "questions__source": "p.jsonl"},
            r"--config.top_p=0.8 is of checkpoints: openai/x is asked without; leave it at 1",
        ),
        (
            {"writer__name": "openai/x", "questions__source": "p.jsonl"},
            r"strategy='finetuned': the strategies for a provider's model are \['0-shot'",
        ),
        ({"paragraphs": "p.jsonl", "column": "story"}, r"no row has text in 'story'.*--config.column, of \['answers'"),
        ({"paragraphs": "p.jsonl", "annotator__name": ""}, "give --config.annotator.name=provider/model"),
    ],
)
def test_mistakes_are_named(evaluate, tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl", invented(2))
    with pytest.raises(ValueError, match=message):
        evaluate(None, **overrides)


def test_every_strategy_has_a_prompt(tmp_path):
    (tmp_path / "few_shot.txt").write_text("Q: Where?\nA: There\n\nQ: {paragraph_generation_prompt}\nA:\n")
    for checkpoint, names in ((True, strategies.OF_CHECKPOINTS), (False, strategies.OF_PROVIDERS)):
        for name in names:
            folder = tmp_path if name in ("few-shot", "own-probability") else ""
            prompt = strategies.load(name, "full", folder, checkpoint=checkpoint)
            assert prompt.fields == ("paragraph_generation_prompt",)
            assert "Write about {x}." in prompt.render(paragraph_generation_prompt="Write about {x}.")
    chat = strategies.load("llama-2-chat", "full", checkpoint=True).render(paragraph_generation_prompt="Write.")
    assert chat.startswith("[INST] <<SYS>>\n")
    assert "\n<</SYS>>\n\nWrite." in chat
    assert chat.endswith(" [/INST]")


def test_the_published_data_sets_are_joined(tmp_path, monkeypatch):
    """Small files of the published forms: SciQ by row over its splits, BioASQ's JSON, TriviaQA's records."""
    prompts = write(
        tmp_path / "prompts.jsonl", [{"question_id": i, "paragraph_generation_prompt": f"Write {i}."} for i in (2, 0)]
    )
    sciq = [{"question": f"S{i}?", "correct_answer": f"A{i}", "distractor1": "x", "support": ""} for i in range(3)]
    bioasq = {"questions": [{"id": "0", "type": "factoid", "body": "B?", "exact_answer": [["TP53", "p53"]]},
                            {"id": "2", "type": "factoid", "body": "C?", "exact_answer": "BRCA1"}]}  # fmt: skip
    trivia = [
        {"question_id": str(i), "question": f"T{i}?", "answer": {"value": f"V{i}", "aliases": ["W"]}} for i in range(3)
    ]
    (tmp_path / "bioasq.json").write_text(json.dumps(bioasq))
    files = {"sciq": write(tmp_path / "sciq.jsonl", sciq), "bioasq": str(tmp_path / "bioasq.json"),
             "trivia_qa": write(tmp_path / "trivia.jsonl", trivia)}  # fmt: skip
    expected = {
        "sciq": [("2", "S2?", "A2", ()), ("0", "S0?", "A0", ())],
        "bioasq": [("2", "C?", "BRCA1", ()), ("0", "B?", "TP53", ("p53",))],
        "trivia_qa": [("2", "T2?", "V2", ("W",)), ("0", "T0?", "V0", ("W",))],
    }
    for mode, answers in files.items():
        config = config_of("evaluate_qa", mode)
        config.questions.update(source=prompts, answers=answers)
        questions = evaluate_qa.load_questions(config)
        assert [(q.question_id, q.question, q.answer, q.aliases) for q in questions] == expected[mode]
        assert [q.prompt for q in questions] == ["Write 2.", "Write 0."]
    assert config_of("evaluate_qa", "jeopardy").data == "Jeopardy"


@pytest.mark.slow
def test_a_checkpoint_writes_on_real_questions(tmp_path, monkeypatch, questions):
    """300 test questions of TriviaQA, paragraphs of a checkpoint of this project, judged over HTTP."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    path = write(tmp_path / "questions.jsonl", questions)

    def reader(request):
        """Reads the last word of a paragraph with confidence 1/2."""
        if fields := extract.PROMPT.match(request.prompt):
            return Reply("ok", (fields["generated_paragraph"].split() or ["No Answer"])[-1].strip(".;") or "No Answer")
        return Reply("ok", "0.5") if forecast.PROMPT.match(request.prompt) else scripted(request)

    with FakeServer(reader) as server:
        settings = {"questions__source": path, "questions__split": None, "model": base.LLAMA, "max_new_tokens": 16}
        settings |= {"annotator__name": "openai/gpt-4.1", "annotator__base_url": server.openai_url, "data": "TriviaQA"}
        run("evaluate_qa", output=str(tmp_path / "out"), method="base", **settings)
        num_replies = server.num_answered
        run("evaluate_qa", output=str(tmp_path / "out"), method="base", **settings)  # paragraphs and replies are kept
        assert server.num_answered == num_replies
    result, records = (
        json.loads((tmp_path / "out" / "result.json").read_text()),
        rows(tmp_path / "out" / "records.jsonl"),
    )
    paragraphs = {row["question_id"]: row["paragraph"] for row in rows(tmp_path / "out" / "paragraphs.jsonl")}
    last = [(paragraphs[record["question_id"]].split() or [""])[-1].strip(".;") for record in records]
    right = [
        word.casefold() in map(str.casefold, q["answers"]) or word.endswith(q["answers"][0])
        for word, q in zip(last, questions, strict=True)
    ]
    assert [record["correct"] for record in records] == right
    assert result["accuracy"] == pytest.approx(sum(right) / 300)
    assert (result["num_questions"], result["accuracy"], result["ece"]) == pytest.approx((300, *counted(records)))
    with pytest.raises(ValueError, match="written by another model or in another way"):
        run("evaluate_qa", output=str(tmp_path / "out"), method="base", **settings | {"temperature": 0.0})


BLOCKED = "jax jaxlib flax optax orbax transformers tokenizers safetensors wandb torch"
WITHOUT = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED.split()!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed")

sys.meta_path.insert(0, Blocked())
from lc_jax import main
main.start()
"""


def test_a_file_of_paragraphs_needs_no_jax(tmp_path):
    """The command line, with everything that only training needs taken away."""
    path = write(tmp_path / "p.jsonl", invented(25))
    with FakeServer(scripted) as server:
        settings = {
            "paragraphs": path,
            "questions.source": "",
            "data": "mine",
            "method": "mine",
            "output": tmp_path / "e" / "m",
        }
        settings |= {"annotator.name": "openai/gpt-4.1", "annotator.base_url": server.openai_url}
        commands = [
            ["--config=configs/evaluate_qa.py", *(f"--config.{name}={value}" for name, value in settings.items())],
            [
                "--config=configs/report.py",
                f"--config.evaluations={tmp_path / 'e'}",
                f"--config.output={tmp_path / 'r'}",
            ],
        ]
        for arguments in commands:
            done = subprocess.run(
                [sys.executable, "-c", WITHOUT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
                env={"OPENAI_API_KEY": KEY, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "r" / "results.json").read_text())[0]
    assert result["num_questions"] == 25
    records = rows(tmp_path / "e" / "m" / "records.jsonl")
    assert result["ece"] == pytest.approx(
        metrics.ece([r["confidence"] for r in records], [r["correct"] for r in records])
    )
    assert (tmp_path / "r" / "report.html").stat().st_size > 10_000


def no_constant(name):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize(
    ("paragraphs", "accuracy", "interval", "undefined"),
    [
        (["It is Mount 1 (80%)."], 1, (0.2065, 1), {"auroc", "ece_low", "brier_low", "ece_published"}),
        (["It is K2 (60%)."], 0, (0, 0.7935), {"auroc", "ece_low", "brier_low", "ece_published"}),
        (["It is Mount 1 (80%).", "It is K2 (60%).", "It is K2 (60%)."], 1 / 3, (0.0615, 0.7923), {"ece_published"}),
        (["It is Mount 1 (70%)."] * 25, 1, (0.8668, 1), {"auroc", "ece_low", "brier_low"}),
        (["It is K2 (100%)."] * 25, 0, (0, 0.1332), {"auroc", "ece_low", "brier_low"}),
    ],
    ids=["one right", "one wrong", "three", "all right", "all wrong"],
)
def test_every_file_of_an_evaluation_is_strict_json(evaluate, tmp_path, paragraphs, accuracy, interval, undefined):
    texts = [
        {"question_id": f"q{i}", "question": f"Which is peak {i}?", "answer": "Mount 1", "generated_paragraph": text}
        for i, text in enumerate(paragraphs)
    ]
    source = tmp_path / "p.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in texts))
    with FakeServer(scripted) as server:
        result, _ = evaluate(server, paragraphs=str(source))
    for path in (tmp_path / "out").rglob("*.json*"):
        for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            json.loads(text, parse_constant=no_constant)
    assert result["accuracy"] == pytest.approx(accuracy)
    assert (result["accuracy_low"], result["accuracy_high"]) == pytest.approx(interval, abs=5e-5)
    assert {name for name, value in result.items() if value is None} == set(result["undefined"])
    undefined |= {"kind_correlation", "auroc_within"}
    undefined |= ({"overconfidence_low"} if "ece_low" in undefined else set()) | (
        {"prr"} if "auroc" in undefined else set()
    )
    assert undefined == set(result["undefined"]) - {
        "auroc_low", "auroc_high", "ece_high", "brier_high", "overconfidence_high"
    }  # fmt: skip


def test_own_mode_reads_questions_from_the_paragraphs_and_takes_the_name_of_the_file(tmp_path):
    path = write(tmp_path / "capitals.jsonl", invented(3))
    config = config_of("evaluate_qa", "own")
    config.paragraphs = path
    assert [q.question_id for q in evaluate_qa.load_items(config).questions] == [r["question_id"] for r in invented(3)]
    assert evaluate_qa._data_name(config) == "capitals"


def test_paragraphs_that_hold_their_own_questions_are_pointed_to_the_own_mode(tmp_path):
    path, others = write(tmp_path / "mine.jsonl", invented(3)), write(tmp_path / "others.jsonl", invented(60)[50:])
    config = config_of("evaluate_qa")
    config.paragraphs = path
    config.questions.update(source=others, split=None, answers=None, answers_split=None)
    with pytest.raises(ValueError, match=r"No id of .*mine.jsonl hold question and answer: .*evaluate_qa.py:own"):
        evaluate_qa.load_items(config)
