"""Short answers from samples to metrics, by rule: no model, network or key."""

import json

from lc_jax.tasks import evaluate_qa, generate_data
from tests.tasks.test_pipeline import rows
from tests.test_configs import config_of

ROWS = [  # (answers, aliases, statement)
    (["France", "French Republic"], [], "The answer is French Republic (75%). It could also be Italy (25%)."),
    (["Dr. Strangelove"], ["Doctor Strange-love"], "It is probably doctor strange love."),
    (["Spain"], [], "The answer is Portugal (10%). It could also be Spain (5%)."),
    (["Spain"], [], "I do not know."),
    (["Spain"], [], "It is perhaps Portugal."),
    (["Spain"], [], "Spain"),
]


def write(path, items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return str(path)


def evaluate(tmp_path, output, **settings):
    config = config_of("evaluate_qa", "own")
    config.paragraphs = write(tmp_path / "statements.jsonl", (
        {"question_id": f"q{i}", "question": "?", "answers": answers, "aliases": aliases, "generated_paragraph": text}
        for i, (answers, aliases, text) in enumerate(ROWS)
    ))  # fmt: skip
    config.annotator.name, config.method, config.output = "rules/short-answer", "rules", str(tmp_path / output)
    config.update(settings)
    evaluate_qa.check(config)
    evaluate_qa.run(config, None)
    records = rows(tmp_path / output / "records.jsonl")
    return records, json.loads((tmp_path / output / "result.json").read_text())


def test_statements_are_evaluated_by_rule_with_aliases(tmp_path):
    records, result = evaluate(tmp_path, "stated")
    assert [(r["chosen"], r["confidence"], r["correct"], r["status"]) for r in records] == [
        ("French Republic", 0.75, True, "ok"),
        ("doctor strange love", 0.75, True, "ok"),
        ("Portugal", 0.1, False, "ok"),
        ("", 1.0, False, "ok"),
        ("", None, None, "refused"),
        ("", None, None, "refused"),
    ]
    assert result["statuses"] == {"ok": 4, "refused": 2}
    assert result["judge"] == "rules/short-answer"
    assert result["accuracy"] == 0.5
    assert abs(result["brier"] - (2 * 0.25**2 + 0.1**2 + 1) / 4) < 1e-12
    assert "'perhaps' is no part" in records[4]["detail"]
    assert "states no confidence" in records[5]["detail"]


def test_without_confidence_a_bare_answer_counts(tmp_path):
    records, result = evaluate(tmp_path, "bare", uses_confidence=False)
    assert [(r["chosen"], r["confidence"], r["correct"]) for r in records] == [
        ("French Republic", 1.0, True), ("doctor strange love", 1.0, True), ("Portugal", 1.0, False), ("", 1.0, False),
        ("", None, None), ("Spain", 1.0, True),
    ]  # fmt: skip
    assert result["statuses"] == {"ok": 5, "refused": 1}


def test_samples_are_merged_by_rule(tmp_path):
    config = config_of("generate_data")
    config.what, config.questions.source, config.annotator.name = "summaries", "", "rules/short-answer"
    samples = [["France", "france.", "Italy", "", "It is France", "Italy"], ["", ""]]
    config.input = write(tmp_path / "samples.jsonl", (
        {"question_id": f"q{i}", "question": "Which?", "answers": ["France"], "paragraph_generation_prompt": "Where?",
         "icl_generated_paragraphs": texts} for i, texts in enumerate(samples)
    ))  # fmt: skip
    config.output = str(tmp_path / "summaries.jsonl")
    generate_data.check(config)
    generate_data.run(config, None)
    summaries = [row["claude_summary"] for row in rows(tmp_path / "summaries.jsonl")]
    assert summaries == ["The answer is France (50%). It could also be Italy (25%).", None]
    (problem,) = rows(tmp_path / "summaries.jsonl.problems.jsonl")
    assert (problem["status"], problem["detail"]) == ("refused", "none of 2 samples offers a short answer")
