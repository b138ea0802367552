"""Ids are identities, and people's own rows are read with few demands on their columns."""

import json
import logging

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lc_jax.data import examples
from lc_jax.data.cells import parse_messages
from lc_jax.data.columns import at, distinct, id_text, pair
from lc_jax.data.questions import (
    join,
    load_questions,
    load_raw_questions,
    load_train_and_validation,
    plain_query,
    raw_questions,
)
from lc_jax.data.rows import place_of
from lc_jax.prompts import load_templates
from lc_jax.types import Message

SHORT = load_templates("short")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def own(number, first=0):
    return [{"question": f"Which is peak {i}?", "answer": f"Peak {i}"} for i in range(first, first + number)]


# --- ids -------------------------------------------------------------------------------------------------------------


def test_rows_of_one_id_are_told_apart_in_order_and_logged_once(caplog):
    with caplog.at_level(logging.WARNING):
        assert distinct(["o5", "a1", "o5", "o5#2", "o5"], "mine.jsonl") == ["o5", "a1", "o5#3", "o5#2", "o5#4"]
    (record,) = caplog.records
    assert "mine.jsonl: 1 ids are of several rows (o5 ...)" in record.getMessage()


@given(st.lists(st.sampled_from(["a", "b", "a#2", "a#3", "b#2"]), max_size=12))
def test_told_apart_ids_are_distinct_and_the_first_keeps_its_own(ids):
    unique_ids = distinct(ids, "x")
    assert len(set(unique_ids)) == len(ids)
    for name in set(ids):
        assert unique_ids[ids.index(name)] == name


@pytest.mark.parametrize("value", [7, 7.0, "7", " 7", "7.0"])
def test_whole_numbers_are_one_id_however_they_are_written(value):
    assert id_text(value) == "7"


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (float("nan"), ""), ("", ""), (" ", ""), (0, "0"), (7.5, "7.5"), ("1.2.0", "1.2.0")]
)
def test_other_ids(value, text):
    assert id_text(value) == text


def test_rows_and_partners_are_paired_by_id_never_merged():
    assert pair(["a", "b", "c"], ["b", "a", "b"], "questions", "paragraphs") == [[1], [0, 2], []]
    assert pair(["a", "a", "b"], ["a", "b"], "questions", "paragraphs") == [[0], [0], [1]]
    assert pair(["a", "a", "b"], ["a", "b", "a"], "questions", "paragraphs") == [[0], [2], [1]]
    with pytest.raises(ValueError, match=r"'a' is of 2 questions and of 3 paragraphs: nothing says which"):
        pair(["a", "a"], ["a", "a", "a"], "questions", "paragraphs")
    with pytest.raises(ValueError, match=r"No id of the paragraphs is an id of the questions.*'0' and 'q1'"):
        pair(["q1"], ["0"], "questions", "paragraphs")


def test_answers_that_disagree_about_one_id_are_refused(tmp_path):
    rows = [{"id": 1.0, "paragraph_generation_prompt": "P"}]
    same = [{"id": "1", "question": "Q", "answer": "A"}] * 2
    assert join(rows, same)[0]["answer"] == "A"
    other = [*same, {"id": 2, "question": "Q", "answer": "B"}, {"id": 2, "question": "Q", "answer": "C"}]
    assert join(rows, other)[0]["answer"] == "A"  # nobody uses the id 2
    with pytest.raises(ValueError, match=r"The id '1' is of several questions or answers that disagree"):
        join(rows, [*same, {"id": 1, "question": "Q", "answer": "B"}])
    with pytest.raises(ValueError, match=r"have other ids than the rows: for example '9', not '1'"):
        join(rows, [{"id": 9, "question": "Q", "answer": "B"}])


def test_an_empty_cell_of_a_row_does_not_hide_its_partner():
    assert join([{"id": 1, "answer": None}], [{"id": 1, "answer": "A"}]) == [{"id": 1, "answer": "A"}]


def test_ids_made_from_the_question_are_the_same_in_every_file(tmp_path):
    one = load_questions(write(tmp_path / "a.jsonl", own(3)))
    other = load_questions(write(tmp_path / "b.jsonl", own(2, first=1)))
    assert [q.question_id for q in other] == [q.question_id for q in one[1:]]
    twice = load_questions(write(tmp_path / "c.jsonl", [*own(1), *own(1)]))
    assert twice[1].question_id == twice[0].question_id + "#2"


# --- own questions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", ["no/such-data-set", "", None, "None"])
def test_own_questions_need_no_second_source_and_no_query(tmp_path, answers):
    """The other source is not read: it is not there, and nothing fails."""
    source = write(tmp_path / "mine.jsonl", own(2))
    questions = load_questions(source, "ppo", answers=answers, answers_split="train")
    assert [q.prompt for q in questions] == [plain_query("Which is peak 0?"), plain_query("Which is peak 1?")]
    assert (questions[1].question, questions[1].answer) == ("Which is peak 1?", "Peak 1")


def test_a_query_may_be_called_prompt_and_rows_without_one_are_dropped_where_others_have_one(tmp_path):
    rows = [row | {"prompt": f"Write {i}."} for i, row in enumerate(own(2))]
    questions = load_questions(write(tmp_path / "mine.jsonl", [*rows, *own(1, first=5)]))
    assert [q.prompt for q in questions] == ["Write 0.", "Write 1."]


@pytest.mark.parametrize("validation", ["", None, "None", "the same"])
def test_validation_is_split_off_by_id(tmp_path, validation):
    rows = [row | {"id": f"q{i // 2}"} for i, row in enumerate(own(20))]
    source = write(tmp_path / "mine.jsonl", rows)
    settings = {"source": source, "split": "ppo"}
    other = {"source": source if validation == "the same" else validation, "split": "ppo_validation"}
    train, held_out = load_train_and_validation(settings, other, 1000, seed=3)
    assert (len(train), len(held_out)) == (16, 4)  # a fifth of the ten ids, two rows each
    assert {q.question_id.partition("#")[0] for q in train}.isdisjoint(
        q.question_id.partition("#")[0] for q in held_out
    )
    assert load_train_and_validation(settings, other, 1000, seed=3) == (train, held_out)
    assert load_train_and_validation(settings, other, 1000, seed=4) != (train, held_out)
    assert len(load_train_and_validation(settings, other, 1, seed=3)[1]) == 2


def test_a_validation_file_of_its_own_is_read_and_held_against_the_training_questions(tmp_path):
    train, other = write(tmp_path / "a.jsonl", own(4)), write(tmp_path / "b.jsonl", own(2, first=4))
    questions, held_out = load_train_and_validation({"source": train}, {"source": other}, 1, seed=0)
    assert (len(questions), [q.question for q in held_out]) == (4, ["Which is peak 4?"])
    with pytest.raises(ValueError, match="1 question ids are both in training and in evaluation"):
        load_train_and_validation({"source": train}, {"source": write(tmp_path / "c.jsonl", own(2, 3))}, 9, seed=0)
    with pytest.raises(ValueError, match="one question is too few"):
        load_train_and_validation({"source": write(tmp_path / "d.jsonl", own(1))}, {"source": ""}, 9, seed=0)


def test_names_that_differ_in_case_or_spaces_are_taken(tmp_path):
    rows = [{"Question": "Q?", " ANSWER": "A", "Prompt ": "Write."}]
    (question,) = load_questions(write(tmp_path / "a.jsonl", rows))
    assert (question.question, question.answer, question.prompt) == ("Q?", "A", "Write.")
    assert at({"Answer": {"Value": "x"}}, "answer.value") == "x"
    assert at({"A": 1, "a ": 2}, "a") is None  # two such names: neither


def test_where_nothing_makes_a_question_the_columns_and_the_flag_are_named(tmp_path):
    source = write(tmp_path / "a.jsonl", [{"instruction": "Q?", "output": "A"}, {"instruction": "Q?", "note": ""}])
    with pytest.raises(
        ValueError, match=r"\['instruction', 'note', 'output'\].*columns=question=instruction,answer=output"
    ):
        load_questions(source)
    with pytest.raises(ValueError, match=r"--config\.validation\.columns="):
        load_raw_questions(source, flag="--config.validation")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": 5, "answer": "A"}, "question is not text"),
        ({"question": {"text": "Q"}, "answer": "A"}, "question is not text"),
        ({"question": ["Q"], "answer": "A"}, "question is not text"),
        ({"question": None, "answer": "A"}, "missing question"),
        ({"question": float("nan"), "answer": "A"}, "missing question"),
        ({"question": " ", "answer": "A"}, "missing question"),
        ({"answer": "A"}, "missing question"),
        ({"question": "Q", "answer": None}, "missing answer"),
        ({"question": "Q"}, "missing answer"),
        ({"question": "Q", "answer": "A", "prompt": 3}, "prompt is not text"),
    ],
)
def test_rows_of_another_type_are_dropped_with_the_reason(row, reason):
    good = {"question": "Q?", "answer": "A"}
    assert len(raw_questions([row, good], "mine")[0]) == 1
    with pytest.raises(ValueError, match=f"no row makes a question.*'{reason}': 1"):
        raw_questions([row], "mine")


# --- own training rows -----------------------------------------------------------------------------------------------


def load(recipe, tmp_path, rows):
    return examples.load_examples({"recipe": recipe, "rows": {"source": write(tmp_path / "rows.jsonl", rows)}}, SHORT)


CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*CHAT, {"role": "assistant", "content": "Ho"}]},
        {"messages": json.dumps([*CHAT, {"role": "assistant", "content": "Ho"}])},
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Ho"},
            ]
        },
        {"messages": [*CHAT, {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]}]},
        {"prompt": CHAT, "completion": [{"role": "assistant", "content": "Ho"}]},
    ],
)
def test_a_conversation_ends_in_its_target(tmp_path, row):
    ((example,), _) = load("demonstrations", tmp_path, [row])
    assert example.prompt == (Message("system", "Be brief."), Message("user", "Hi"))
    assert example.target == "Ho"


def test_prompt_and_completion_stand_as_they_are(tmp_path):
    rows = [{"prompt": "Answer: ", "completion": "Paris\n"}, {"prompt": "Answer: ", "completion": "Lyon"}]
    ours, dropped = load(
        "demonstrations", tmp_path, [*rows, {"prompt": "x", "completion": 5}, {"id": 3, "prompt": "y"}]
    )
    assert [(e.prompt, e.target) for e in ours] == [("Answer: ", "Paris\n"), ("Answer: ", "Lyon"), ("x", "5")]
    assert dropped == {"missing completion": 1}
    split = examples.split_by_question(ours, 1, 0)
    assert len(split.evaluation) in (1, 2)
    assert {e.prompt for e in split.train}.isdisjoint(e.prompt for e in split.evaluation)  # no prompt on both sides


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": CHAT}, "the last message is not the assistant's"),
        ({"messages": [{"role": "assistant", "content": "Ho"}]}, "nothing comes before"),
        ({"messages": [*CHAT, {"role": "assistant", "content": ""}]}, "lacks role or content|is empty"),
        ({"messages": [*CHAT, {"role": "assistant"}]}, "a message lacks role or content"),
        ({"messages": [{"role": "tool", "content": "5"}, *CHAT]}, "a message has role 'tool', which is none of"),
        ({"messages": ["Hi", "Ho"]}, "a message is no record"),
        ({"messages": "Hi"}, "messages: not a list of {role, content}"),
        ({"messages": []}, "missing messages"),
        ({"prompt": {"text": "x"}, "completion": "y"}, "prompt is not text"),
        ({"prompt": "x", "completion": ""}, "empty completion"),
        ({"prompt": None, "completion": "y"}, "missing prompt"),
        ({"instruction": "x", "output": "y"}, "missing prompt.*rows.columns=prompt=instruction,completion=output"),
    ],
)  # fmt: skip
def test_demonstrations_that_are_none_are_refused_with_the_reason(tmp_path, row, reason):
    with pytest.raises(ValueError, match=f"no row makes an example of 'demonstrations'.*({reason})"):
        load("demonstrations", tmp_path, [row])


@pytest.mark.parametrize(
    ("label", "value"),
    [(0, 0.0), (1, 1.0), (0.25, 0.25), ("0.25", 0.25), (True, 1.0), (False, 0.0), ("true", 1.0), ("False", 0.0)],
)
def test_labels_are_probabilities_or_true_and_false(tmp_path, label, value):
    ((example,), _) = load("labelled_answers", tmp_path, [{"prompt": "Is it so? ", "answer": "Yes", "label": label}])
    assert (example.prompt, example.label) == ("Is it so? Yes", value)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (2, "no probability"),
        (-0.1, "no probability"),
        ("good", "no probability"),
        (None, "missing label"),
        ([1], "no prob"),
    ],
)
def test_other_labels_are_refused(tmp_path, label, reason):
    with pytest.raises(ValueError, match=f"no row makes an example.*{reason}"):
        load("labelled_answers", tmp_path, [{"prompt": "x", "answer": "y", "label": label}])


def test_rows_with_bad_labels_are_warned_of_with_their_numbers_and_first_lines(tmp_path, caplog):
    good, bad = ({"prompt": "Is it so? ", "answer": "Yes", "label": label} for label in (0.5, 1.5))
    lines = [json.dumps(good), "", json.dumps(bad), json.dumps(good), json.dumps({"prompt": "Or? "}), json.dumps(bad)]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(lines))
    data = {"recipe": "labelled_answers", "rows": {"source": str(source)}, "eval_size": 0}
    split, dropped = examples.load_split(data, SHORT, None, seed=0)
    with caplog.at_level(logging.WARNING):
        examples.report_sizes(data, len(split.train), 0, dropped)
    assert [record.getMessage() for record in caplog.records] == [
        f"{source}: rows that are left out: label is no probability: give numbers in [0, 1], true or false: 2, "
        f"first in {source}, line 3; missing label: 1, first in {source}, line 5"
    ]


def test_nothing_is_trained_on_where_every_example_is_too_long(tmp_path):
    rows = [{"prompt": "Is it so? ", "completion": "Yes"}] * 3
    data = {"recipe": "demonstrations", "rows": {"source": write(tmp_path / "a.jsonl", rows)}, "eval_size": 0}
    _, dropped = examples.load_split(data, SHORT, None, seed=0)
    dropped["the prompt fills --config.data.max_length=2"] += 3
    with pytest.raises(ValueError, match=r"a\.jsonl: no example is left .*\(the prompt fills .*max_length=2: 3\)"):
        examples.report_sizes(data, 0, 0, dropped)


def test_a_row_of_any_source_has_a_place(tmp_path):
    write(tmp_path / "train-0.jsonl", [{"a": 1}, {"a": 2}])
    write(tmp_path / "train-1.jsonl", [{"a": 3}])
    write(tmp_path / "test.jsonl", [{"a": 9}])
    assert place_of(tmp_path, "train", 2) == f"{tmp_path}/train-1.jsonl, line 1"
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"x\ny"\n2,z\n3,"u\nv"\n')
    assert place_of(path, None, 1) == f"{path}, line 4"
    assert place_of("owner/name", None, 2) == "owner/name, row 3"


def test_a_conversation_has_the_same_forms_in_prompts_as_in_training_rows():
    turns = [{"from": "human", "value": "Hi"}, {"role": "Assistant", "content": [{"type": "text", "text": "Ho"}]}]
    expected = (Message("user", "Hi"), Message("assistant", "Ho"))
    assert parse_messages(turns, "a") == parse_messages(json.dumps(turns), "a") == expected
    with pytest.raises(ValueError, match=r"^a: `messages`: message 2 lacks role or content as text\.$"):
        parse_messages([turns[0], {"role": "user", "content": None}], "a")


def test_a_labelled_paragraph_takes_the_words_of_the_forecaster(tmp_path):
    """PPO can then use a reward model of the user's own."""
    row = {"generated_paragraph": "It is Linz.", "question": "Which town?", "answer": ["Linz", "Lentia"], "label": 0.7}
    ((example,), _) = load("labelled_answers", tmp_path, [row])
    fields = SHORT.forecast_probs.match(example.prompt)
    assert fields == {"generated_paragraph": "It is Linz.", "question": "Which town?", "answer": "Linz"}
    assert example.label == 0.7


@pytest.mark.parametrize(
    "ids", [lambda i: {"id": i}, lambda i: {}, lambda i: {"question_id": str(i)}, lambda i: {"id": f"q{i // 3}"}]
)
def test_rows_of_a_published_recipe_need_no_question_id(tmp_path, ids):
    rows = [
        ids(i) | {"paragraph_generation_prompt": f"Write {i}.", "claude_summary": f"I think {i} (70%)."}
        for i in range(12)
    ]
    data = {"recipe": "sft_lc", "rows": {"source": write(tmp_path / "sft.jsonl", rows)}, "eval_size": 2}
    split, dropped = examples.load_split(data, SHORT, None, seed=0)
    assert not dropped
    held_out = {e.example_id for e in split.evaluation}
    assert len(held_out) == 2
    assert held_out.isdisjoint(e.example_id for e in split.train)
    assert len(split.train) + len(split.evaluation) == 12


@pytest.mark.parametrize("label", ["yes", 90])
def test_a_label_that_is_no_probability_is_answered_with_what_to_give_and_no_columns(tmp_path, label):
    source = write(tmp_path / "rows.jsonl", [{"prompt": "x", "paragraph": "y", "label": label}])
    data = {"recipe": "labelled_answers", "rows": {"source": source}}
    with pytest.raises(ValueError, match=r"no row makes an example") as raised:
        examples.load_examples(data, SHORT)
    assert "give numbers in [0, 1], true or false" in str(raised.value)
    assert "columns=" not in str(raised.value)
