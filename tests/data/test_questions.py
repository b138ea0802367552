import csv
import gzip
import json
import sys
import types

import httpx
import pytest
from huggingface_hub import HfApi, constants

from lc_jax.data.columns import rename
from lc_jax.data.questions import check_disjoint, join, load_questions, load_training_rows, question_from
from lc_jax.data.rows import load_rows
from lc_jax.types import Question

NASTY = ["None", "NA", "null", "nan", 'a "quoted", {cell}\nof two lines', "\u202eעברית", "x" * 200_000]
ROWS = [
    {"question_id": f"q{i}", "paragraph_generation_prompt": f"Write {i}.", "question": "Who?", "answer": answer}
    for i, answer in enumerate(NASTY)
]
EXPECTED = [Question(f"q{i}", f"Write {i}.", "Who?", answer) for i, answer in enumerate(NASTY)]


def write(path, rows):
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8", newline="") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        elif kind == "json":
            json.dump({"questions": rows}, file)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.csv.gz", "a.parquet"])
def test_every_file_type_gives_the_same_text(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    assert load_questions(path) == EXPECTED
    assert load_questions(path, limit=2) == EXPECTED[:2]


def test_a_folder_is_split_by_file_names(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "ppo-00000-of-00002.csv", ROWS[:1])
    write(tmp_path / "data" / "ppo-00001-of-00002.csv", ROWS[1:2])
    assert load_questions(tmp_path) == EXPECTED[:2]
    write(tmp_path / "ppo_validation.jsonl", ROWS[2:3])
    assert load_questions(tmp_path, split="ppo") == EXPECTED[:2]
    for split in (None, "test"):
        with pytest.raises(FileNotFoundError, match=r"'ppo', 'ppo_validation'"):
            load_questions(tmp_path, split=split)


def test_published_prompts_are_joined_with_their_answers(tmp_path):
    prompts = write(tmp_path / "p.csv", [{"question_id": i, "paragraph_generation_prompt": f"P{i}"} for i in (1, 0, 7)])
    trivia = [
        {"question_id": str(i), "question": f"Q{i}", "answer": {"value": f"A{i}", "aliases": [f"a{i}", f"A{i}"]}}
        for i in range(2)
    ]
    expected = [Question("1", "P1", "Q1", "A1", ("a1",)), Question("0", "P0", "Q0", "A0", ("a0",))]
    assert load_questions(prompts, answers=write(tmp_path / "t.jsonl", trivia)) == expected
    jeopardy = [{"question": f"Q{i}", "answer": f"A{i}"} for i in range(2)]  # known by their index
    assert join(load_rows(prompts), jeopardy)[0] == {
        "question_id": "1", "paragraph_generation_prompt": "P1", "question": "Q1", "answer": "A1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "form", "aliases"),
    [
        ({"ground_truth_top_answer": "None"}, "None", ()),
        ({"answers": ["A", "B", "A"]}, "A", ("B",)),
        ({"answers": "['A', 'B']"}, "A", ("B",)),
        ({"answer": "[A]", "aliases": '["B", null, "C"]'}, "[A]", ("B", "C")),
        ({"exact_answer": [["A1", "A2"], ["B"]]}, "A1", ("A2", "B")),
        ({"exact_answer": "Ada"}, "Ada", ()),
        ({"correct_answer": "r"}, "r", ()),
    ],
)
def test_answers_in_every_published_form(answer, form, aliases):
    question = question_from({"id": 5, "body": "Q?", **answer})
    assert question == Question("5", "", "Q?", form, aliases)


@pytest.mark.parametrize(("cell", "rate"), [(0.25, 0.25), ("1", 1.0), ("", None), (None, None)])
def test_the_empirical_rate_of_a_question(cell, rate):
    row = {"id": 1, "question": "Q?", "answer": "A", "empirical_rate": cell}
    assert question_from(row) == Question("1", "", "Q?", "A", empirical_rate=rate)
    for wrong in (1.5, "often"):
        with pytest.raises(ValueError, match=r"empirical_rate is no probability: give a number in \[0, 1\]"):
            question_from(row | {"empirical_rate": wrong})


def test_columns_can_be_named():
    row = {"nr": 1, "ask": "Q?", "solution": {"text": "A"}, "group": "g"}
    columns = "question_id=nr, question=ask,answer=solution.text,kind=group"
    (renamed,) = rename([row], columns)
    assert question_from(renamed) == Question("1", "", "Q?", "A", kind="g")
    for bad, message in (
        ("question", "columns=question: write OURS=YOURS"),
        ("question=asked", r"no row has 'asked'.*'ask'"),
        ("ask=question", r"no row has 'question'.*did you mean question=ask\?"),
    ):
        with pytest.raises(ValueError, match=message):
            rename([row], bad)


def test_training_rows_may_have_columns_of_their_own(tmp_path):
    path = write(tmp_path / "a.csv", [{"question_id": "1", "topic": "Write.", "text": "Chad."}])
    columns = "paragraph_generation_prompt=topic,claude_summary=text"
    (row,) = load_training_rows(path, columns=columns)
    assert (row["paragraph_generation_prompt"], row["claude_summary"]) == ("Write.", "Chad.")


def test_rows_that_lack_a_cell_are_dropped_not_fatal(tmp_path):
    rows = [*ROWS[:1], {**ROWS[1], "answer": ""}, {**ROWS[2], "question": ""}]
    path = write(tmp_path / "a.csv", rows)
    assert load_questions(path) == EXPECTED[:1]
    with pytest.raises(ValueError, match=r"no row makes a question.*its columns are.*Fill them in"):
        load_questions(write(tmp_path / "b.csv", rows[1:]))


def test_damaged_files_name_the_place(tmp_path):
    whole = write(tmp_path / "a.jsonl.gz", ROWS)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole.read_bytes()[:-20])
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a": \n')
    (tmp_path / "wide.csv").write_text("a,b\n1,2\n1,2,3\n")
    for name, message in (
        ("cut.jsonl.gz", "cut off"),
        ("bad.jsonl", "line 2: not JSON"),
        ("wide.csv", "line 3: 3 cells, but the header has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            load_rows(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="No file or folder"):
        load_rows("./absent.csv")
    with pytest.raises(FileNotFoundError, match="a data set of the hub is called namespace/name"):
        load_rows("trivia_qa:unfiltered.nocontext", "train")


@pytest.mark.parametrize(
    ("answer", "message", "is_offline"),
    [
        (None, r"\(ConnectionError: offline\).*local path instead", False),
        (httpx.ConnectError("no route"), r"\(https://\S+ does not answer: no route\).*local path instead", True),
        (ConnectionResetError("reset"), r"\(https://\S+ does not answer: reset\).*local path instead", True),
        (OSError(28, "No space left"), r"\(ConnectionError: offline\).*local path instead", False),
        (ValueError("no such name"), r"\(ConnectionError: offline\).*local path instead", False),
    ],
)
def test_a_hub_data_set_that_cannot_be_had_names_the_remedy(monkeypatch, answer, message, is_offline):
    calls, offline = [], []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        offline.append((constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE))  # True: no retries
        raise ConnectionError("offline")

    def dataset_info(self, name, timeout):
        if answer:
            raise answer

    config = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset, config=config))
    with pytest.raises(ValueError, match=message):
        load_rows("tatsu-lab/linguistic_calibration:sft_training@main", "train")
    expected = (("tatsu-lab/linguistic_calibration", "sft_training"), {"split": "train", "revision": "main"})
    assert calls == [expected]
    assert offline == [(is_offline, is_offline)]
    assert (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE) == (False, False)


def test_the_same_question_on_both_sides_is_refused():
    check_disjoint(["a"], ["b"])
    with pytest.raises(ValueError, match=r"1 question ids .*\['b'\]"):
        check_disjoint(["a", "b"], ["b", "c"])


def test_a_missing_file_is_told_with_its_flag_and_a_near_name(tmp_path):
    write(tmp_path / "mine.jsonl", ROWS)
    with pytest.raises(FileNotFoundError) as raised:
        load_training_rows(tmp_path / "mne.jsonl")
    assert str(raised.value) == (
        f"--config.data.rows.source: No file or folder {tmp_path}/mne.jsonl; did you mean {tmp_path}/mine.jsonl?"
    )
    with pytest.raises(ValueError, match=r"^--config\.data\.rows\.columns=answer=oops: no row has 'oops'"):
        load_training_rows(tmp_path / "mine.jsonl", columns="answer=oops")
