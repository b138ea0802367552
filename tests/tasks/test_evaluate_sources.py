"""Tests of where the questions and answers of the published test sets come from, and of missing ones."""

import pytest

from configs import base
from lc_jax.data.questions import load_joined_rows
from lc_jax.preflight import Problems
from lc_jax.tasks import evaluate_qa
from tests.tasks.test_evaluate_qa import write
from tests.test_configs import config_of


@pytest.mark.parametrize(
    ("mode", "file", "variable"),
    [("jeopardy", "JEOPARDY_QUESTIONS1.json", "LC_JEOPARDY"), ("bioasq", "training12b_new.json", "LC_BIOASQ")],
)
def test_what_the_hub_does_not_serve_is_named_before_anything_starts(tmp_path, monkeypatch, mode, file, variable):
    def problems(**questions):
        config = config_of("evaluate_qa", mode)
        config.update(method="x", output=str(tmp_path / "out"), model=base.LLAMA, dry_run=True)
        config.annotator.name = "anthropic/claude-haiku-4-5"
        config.questions.update(questions)
        try:
            evaluate_qa.check(config)
        except Problems as error:
            return str(error)
        return ""

    text = problems()
    assert f"fetch {file}" in text
    assert f"Then give it by --config.questions.answers=FILE or {variable}=FILE." in text
    assert len(text.splitlines()) == 1
    assert "No file or folder ./nowhere.json" in problems(answers="./nowhere.json")
    question_file = write(tmp_path / "held.json", [{"question": "Q?", "answer": "A"}])
    assert problems(answers=question_file) == ""
    monkeypatch.setenv(variable, question_file)
    assert problems() == ""
    # A local copy of the prompts may hold questions and answers itself.
    monkeypatch.delenv(variable)
    copy = tmp_path / "copy" / f"{mode}_paragraph_generation"
    copy.mkdir(parents=True)
    write(copy / "test.jsonl", [{"question_id": 0, "paragraph_generation_prompt": "Write.", "question": "Q?"}])
    source = f"{tmp_path / 'copy'}:{copy.name}"
    assert f"fetch {file}" in problems(source=source)
    with pytest.raises(FileNotFoundError, match=f"fetch {file}"):
        load_joined_rows(source, "test")
    write(
        copy / "test.jsonl", [{"question_id": 0, "paragraph_generation_prompt": "W.", "question": "Q", "answer": "A"}]
    )
    assert problems(source=source) == ""
