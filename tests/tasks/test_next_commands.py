"""The command that a task prints at its end runs as printed, once its placeholders are filled in."""

import importlib
import json
import logging
import shlex
import shutil
from pathlib import Path

import pytest

from configs import base
from lc_jax import parallel, settings
from lc_jax.llm.checks import EXAMPLES
from lc_jax.models import hf
from lc_jax.preflight import Problems
from lc_jax.prompts import load_templates
from lc_jax.provenance import COMMAND, command_line
from lc_jax.tasks import report
from lc_jax.training import advice
from tests.llm.fake_server import FakeServer
from tests.tasks.test_evaluate_qa import scripted
from tests.tasks.test_own_data import PLAIN, write

FILLED = {
    "prompts.jsonl": {"prompt": "Hi", "paragraph_generation_prompt": "Write about Chad."},
    "rows.jsonl": {"prompt": "Is it so? ", "completion": "Yes"},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder, with a blank in its name, that holds a user's file of questions."""
    path = tmp_path / "my runs"
    path.mkdir()
    monkeypatch.chdir(path)
    write(path / "mine.jsonl", [{"question": f"Which is peak {i}?", "answer": f"Peak {i}"} for i in range(20)])
    shutil.copytree(PLAIN, path / "out" / "model")
    return path


def config_of(*arguments):
    return settings.parse(["--config=configs/" + arguments[0], *arguments[1:], "--config.output=out"])[0].to_dict()


def check(command):
    """The config of a printed command, after its task's check."""
    words = shlex.split(command)
    assert tuple(words[:3]) == COMMAND
    config, others = settings.parse(words[3:])
    assert not others
    importlib.import_module(f"lc_jax.tasks.{config.task}").check(config)
    return config


LANGUAGE_MODELS = [
    ("sft.py", False, "full"),
    ("sft_lc.py", True, "full"),
    ("sft_lc.py:mini", True, "short"),
    ("pretrain.py", True, "short"),
]


@pytest.mark.parametrize(("file", "uses_template", "templates"), LANGUAGE_MODELS)
def test_a_language_model_writes_with_the_templates_of_its_training(file, uses_template, templates):
    following = advice.to_write(config_of(file), uses_template=uses_template)
    with pytest.raises((Problems, FileNotFoundError), match=r"prompts\.jsonl") as missing:
        check(following.command)
    assert str(missing.value).count("\n") == 0  # nothing else is wrong
    assert following.note.startswith("prompts.jsonl stands for your own file")
    write(Path("prompts.jsonl"), [FILLED["prompts.jsonl"]])
    config = check(following.command)
    assert config.model == "out/model"
    assert load_templates(config.templates).paragraph == load_templates(templates).paragraph


def test_a_reward_model_scores(folder):
    hf.save(folder / "out" / "model", hf.load(PLAIN, parallel.make_mesh(), kind="scalar"), tokenizer=PLAIN)
    following = advice.to_score(config_of("reward_model.py"))
    with pytest.raises((Problems, FileNotFoundError), match=r"rows\.jsonl") as missing:
        check(following.command)
    assert str(missing.value).count("\n") == 0
    write(Path("rows.jsonl"), [FILLED["rows.jsonl"]])
    assert check(following.command).kind == "reward"


POLICIES = [
    (["ppo.py:mini"], "miniature", "", "short"),
    (["ppo.py"], base.questions("ppo")["source"], "", "full"),
    (["ppo.py", "--config.templates=chat"], base.questions("ppo")["source"], "", "chat"),
    (["ppo.py", "--config.questions.source=mine.jsonl"], "mine.jsonl", "", "full"),
    (["ppo.py:mini", "--config.questions.source=mine.jsonl"], "mine.jsonl", "", "short"),
    (["ppo.py", "--config.questions.source=mine.jsonl", "--config.questions.columns=question=q,answer=a b"],
     "mine.jsonl", "question=q,answer=a b", "full"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "source", "columns", "templates"), POLICIES)
def test_a_policy_is_evaluated_on_questions_of_its_kind_with_its_templates(arguments, source, columns, templates):
    following = advice.to_evaluate(config_of(*arguments))
    command = following.command
    if source != "miniature":
        assert following.note.startswith("PROVIDER/MODEL is the annotator that reads and judges, such as ")
        assert EXAMPLES.split(",")[0] in following.note
        command = command.replace("PROVIDER/MODEL", base.ANNOTATOR)
    config = check(command)
    if source == "mine.jsonl":
        assert "trained on questions of this file" in following.note
        assert (config.questions.source, config.questions.columns) == (source, columns)
    else:
        assert source.partition(":")[0] in config.questions.source
    assert config.annotator.name == base.ANNOTATOR
    assert (config.model, config.method, config.templates) == ("out/model", "ppo", templates)


def test_a_policy_with_questions_of_its_own_for_validation_is_evaluated_on_these():
    arguments = ["--config.questions.source=mine.jsonl", "--config.validation.source=others.csv"]
    following = advice.to_evaluate(config_of("ppo.py", *arguments))
    assert "--config.questions.source=others.csv" in shlex.split(following.command)
    assert "trained on" not in following.note


def test_an_evaluation_is_followed_by_a_report_on_its_folder(evaluate, tmp_path, caplog):
    source = write(
        tmp_path / "p.jsonl",
        [{"question_id": "a", "question": "Which?", "answer": "Mount 1", "generated_paragraph": "It is Mount 1."}],
    )
    with FakeServer(scripted) as server, caplog.at_level(logging.INFO):
        evaluate(server, paragraphs=source)
    (line,) = [line for record in caplog.records for line in record.getMessage().splitlines() if "Next: " in line]
    words = shlex.split(line.removeprefix("Next: "))
    config, _ = settings.parse(words[len(COMMAND) :])
    assert [entry.method for entry in report.load(config)] == ["mine"]


def test_a_command_is_written_as_a_shell_takes_it():
    command = command_line("configs/report.py", {"evaluations": "my runs/a $b", "methods": "LC RL,b"})
    config, _ = settings.parse(shlex.split(command)[3:])
    assert config.evaluations == "my runs/a $b"
    assert json.dumps(config.to_dict()["methods"]) == '["LC RL", "b"]'
