"""The task that splits a file of questions: what it writes, and how it names rows that are left out."""

import logging

import pytest

from lc_jax.data.jsonl import read_jsonl
from lc_jax.data.questions import load_questions
from lc_jax.planning.stages import load_profile
from lc_jax.preflight import Problems
from lc_jax.tasks import split_questions
from tests.test_configs import config_of as load_config

ROWS = """\
question,answer,aliases
What is the capital of France?,Paris,
What is the capital of Spain?,,
what is the  capital of France,Paris,
What is the capital of Italy?,Rome,"[""Roma""]"
What is the capital of Italy.,Milan,
"""


def config_of(tmp_path, text=ROWS, **settings):
    path = tmp_path / "questions.csv"
    path.write_text(text + "".join(f"Which number follows {i}?,{i + 1},\n" for i in range(20)))
    config = load_config("split_questions")
    config.questions.source, config.output = str(path), str(tmp_path / "data")
    config.update(settings)
    return config


def test_rows_that_make_no_question_and_repeated_ones_are_named(tmp_path, caplog):
    config = config_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        split_questions.run(config, None)
    path = config.questions.source
    messages = [record.getMessage() for record in caplog.records]
    assert f"{path}, line 3: left out: missing answer" in messages
    assert f"{path}, line 4: left out: repeats the question of {path}, line 2" in messages
    assert f"{path}, line 6: left out: repeats the question of {path}, line 5, with another answer" in messages
    left_out = read_jsonl(tmp_path / "data" / "left_out.jsonl")
    assert [record["row"]["question"] for record in left_out] == [
        "What is the capital of Spain?", "what is the  capital of France", "What is the capital of Italy.",
    ]  # fmt: skip


def test_the_sets_hold_every_question_once_with_the_question_as_query(tmp_path):
    split_questions.run(config_of(tmp_path), None)
    sets = {name: load_questions(tmp_path / "data" / f"{name}.jsonl") for name in ("sft", "ppo", "validation", "test")}
    assert {name: len(questions) for name, questions in sets.items()} == {
        "sft": 14,
        "ppo": 14,
        "validation": 2,
        "test": 4,
    }
    distinct = {q.question for questions in sets.values() for q in questions}
    assert len(distinct) == 20  # of 22, 2 are examples
    assert all(q.prompt == q.question for questions in sets.values() for q in questions)
    few_shot = (tmp_path / "data" / "prompts" / "few_shot.txt").read_text()
    assert few_shot.count("Question: ") == 3
    assert few_shot.endswith("\n\nQuestion: {paragraph_generation_prompt}\nAnswer:")
    assert not any(question in few_shot for question in distinct)
    with_numbers = (tmp_path / "data" / "prompts_percentage" / "few_shot.txt").read_text()
    task, *examples = with_numbers.split("\n\n")
    assert "how probable it is" in task
    assert [example.split("Answer: ")[1].split()[-1] for example in examples[:-1]] == ["(90%)", "(30%)"]
    assert with_numbers.replace(task, "").replace(" (90%)", "").replace(" (30%)", "").strip() == few_shot


def test_aliases_and_ids_reach_the_sets(tmp_path):
    split_questions.run(config_of(tmp_path, num_shots=0), None)
    rows = [row for name in ("sft", "validation", "test") for row in read_jsonl(tmp_path / "data" / f"{name}.jsonl")]
    (rome,) = [row for row in rows if row["answer"] == "Rome"]
    assert rome["aliases"] == ["Roma"]
    assert len({row["question_id"] for row in rows}) == 22


def test_sizes_fit_the_number_of_questions(tmp_path):
    split_questions.run(config_of(tmp_path), None)
    flags = load_profile(str(tmp_path / "data" / "sizes.flags"))
    assert flags["sft_lc"] == [
        "--config.fit.batch_size=7", "--config.fit.microbatch_size=0", "--config.data.eval_size=1",
    ]  # fmt: skip
    assert flags["ppo"] == [
        "--config.ppo.num_steps=4", "--config.ppo.rollout_batch_size=112", "--config.ppo.num_samples=8",
        "--config.ppo.minibatch_size=112",
    ]  # fmt: skip


def test_batches_have_at_most_the_given_sizes(tmp_path):
    split_questions.run(config_of(tmp_path, sft_batch_size=3, rollout_batch_size=17), None)
    flags = load_profile(str(tmp_path / "data" / "sizes.flags"))
    assert "--config.fit.batch_size=3" in flags["sft_lc"]
    assert "--config.ppo.rollout_batch_size=16" in flags["ppo"]  # 2 questions with 8 samples


@pytest.mark.parametrize(
    ("minibatch_size", "rollout", "minibatch"),
    # 14 questions with 8 samples; 3 of them a minibatch leave 2, so that a rollout has 12
    [(25, 96, 24), (56, 112, 56), (1000, 112, 112), (7, 112, 8)],
)
def test_a_rollout_is_a_whole_number_of_minibatches(tmp_path, minibatch_size, rollout, minibatch):
    split_questions.run(config_of(tmp_path, minibatch_size=minibatch_size), None)
    flags = load_profile(str(tmp_path / "data" / "sizes.flags"))["ppo"]
    assert f"--config.ppo.rollout_batch_size={rollout}" in flags
    assert f"--config.ppo.minibatch_size={minibatch}" in flags


def test_a_limit_draws_questions_at_random(tmp_path):
    split_questions.run(config_of(tmp_path, limit=10), None)
    names = ("sft", "validation", "test")
    assert sum(len(load_questions(tmp_path / "data" / f"{name}.jsonl")) for name in names) == 9  # and an example


def test_all_questions_are_for_testing_on_request(tmp_path):
    split_questions.run(config_of(tmp_path, only_test=True), None)
    assert len(load_questions(tmp_path / "data" / "test.jsonl")) == 22
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["left_out.jsonl", "test.jsonl"]


def test_questions_of_training_are_left_out_of_a_test_set(tmp_path):
    config = config_of(tmp_path)
    split_questions.run(config, None)
    other = config_of(tmp_path, "question,answer,aliases\nWho?,me,\n", only_test=True, training=config.output)
    other.output = str(tmp_path / "other")
    split_questions.check(other)
    split_questions.run(other, None)
    assert [q.question for q in load_questions(tmp_path / "other" / "test.jsonl")] == ["Who?"]
    reasons = {row["reason"] for row in read_jsonl(tmp_path / "other" / "left_out.jsonl")}
    assert f"is a question of {tmp_path}/data/test.jsonl" in reasons
    assert f"is a question of {tmp_path}/data/shots.jsonl" in reasons  # examples, with their answers in the prompt
    other.questions.source = str(tmp_path / "data" / "test.jsonl")
    with pytest.raises(ValueError, match="every question is one of"):
        split_questions.run(other, None)


@pytest.mark.parametrize("name", ["num_test", "num_samples", "num_sft", "minibatch_size", "max_steps"])
def test_bad_settings_are_refused(tmp_path, name):
    with pytest.raises(Problems, match=f"--config.{name}=0"):
        split_questions.check(config_of(tmp_path, **{name: 0}))


def test_a_file_without_answers_is_refused_with_the_flag_that_names_columns(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,reply\nWho?,me\n")
    config = load_config("split_questions")
    config.questions.source, config.output = str(path), str(tmp_path / "data")
    with pytest.raises(ValueError, match=r"no row makes a question .*--config.questions.columns=question=YOURS"):
        split_questions.load(config, training="")
