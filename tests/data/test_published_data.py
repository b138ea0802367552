"""The published data set from a local copy: its columns, list cells as text and holes, through every recipe."""

import csv
import json

import pyarrow
import pytest
from pyarrow import parquet

from configs import base
from lc_jax.data import examples
from lc_jax.data.questions import load_questions, load_training_rows
from lc_jax.data.rows import load_rows
from lc_jax.prompts import load_templates
from tests.test_configs import TRAINED, config_of

# What the recorded frames hold is joined from TriviaQA.
JOINED = ("question", "ground_truth_top_answer")
RECORDED = {
    "sft_lc": ("postprocess_sft_df", "lc_sft"),
    "sft_factuality": ("postprocess_sft_df", "factuality_sft"),
    "sft_claude_distill": ("postprocess_sft_df", "claude_distill"),
    "extract_answers": ("reward_model_frames", "postprocess_extract_answers"),
    "forecast_probs": ("reward_model_frames", "postprocess_forecast_probs"),
    "factuality": ("reward_model_frames", "postprocess_binary_correctness"),
}
# The configs whose rows are the published data set; sft and reward_model read a user's own file.
PUBLISHED = [name for name in TRAINED if name not in ("sft", "reward_model")]
SPLITS = ("ppo", "ppo_validation", "reward_model", "validation", "test")


def rows_of(frame):
    return [dict(zip(frame, cells, strict=True)) for cells in zip(*frame.values(), strict=True)]


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # NaN is no text
    parquet.write_table(pyarrow.Table.from_pylist(cells), path)


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({k: "" if v is None or v != v else v for k, v in row.items()} for row in rows)


@pytest.fixture(params=["parquet, a folder a configuration", "csv, a file a configuration"])
def copy(request, recordings, tmp_path, monkeypatch):
    """A small local copy of the data set and of TriviaQA, in two layouts. Gives the recorded frames."""
    recorded = json.loads((recordings / "data.json").read_text())
    sft, readers = (rows_of(recorded[name]["df"]) for name in ("postprocess_sft_df", "reward_model_frames"))
    published = [{k: v for k, v in row.items() if k not in JOINED} for row in readers]
    trivia = [
        {
            "question_id": row["question_id"],
            "question": row["question"],
            "answer": {"value": row["ground_truth_top_answer"], "aliases": [row["ground_truth_top_answer"], "Also"]},
        }
        for row in readers
    ]
    prompts = [
        {"question_id": row["question_id"], "paragraph_generation_prompt": f"Write about {i}."}
        for i, row in enumerate(readers)
    ]
    prompts.append({"question_id": "nowhere", "paragraph_generation_prompt": "Write."})
    whole = tmp_path / "linguistic_calibration"
    (whole / "README.md").parent.mkdir()
    (whole / "README.md").write_text("A card.")
    for name, rows in (("sft_training", sft), ("reward_model_training", published)):
        if request.param.startswith("csv"):
            write_csv(whole / f"{name}.csv", rows)
        else:
            write_parquet(whole / name / "train-00000-of-00001.parquet", rows)
    for split in SPLITS:
        if request.param.startswith("csv"):
            write_csv(whole / f"trivia_qa_paragraph_generation_{split}.csv", prompts)
        else:
            write_parquet(
                whole / "data" / "trivia_qa_paragraph_generation" / f"{split}-00000-of-00001.parquet", prompts
            )
    for split in ("train", "validation"):
        write_parquet(tmp_path / "trivia_qa" / f"{split}-00000-of-00001.parquet", trivia)
    monkeypatch.setenv("LC_DATASET", str(whole))
    monkeypatch.setenv("LC_TRIVIA_QA", str(tmp_path / "trivia_qa"))
    return recorded


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_recipe_gives_the_recorded_rows(copy, name):
    config = config_of(name)
    rows = load_training_rows(**config.data.rows)
    ours, dropped = examples.make_examples(config.data.recipe, rows, load_templates(config.templates))
    frame, part = RECORDED[config.data.recipe]
    expected = (
        copy[frame]["results"][part]["rows"] if frame == "postprocess_sft_df" else copy[frame][part]["result"]["rows"]
    )
    if "target" in expected:
        # An empty cell of a CSV file is a missing one, where the recorded frame held an empty text.
        assert [e.target for e in ours if e.target] == [target for target in expected["target"] if target]
        assert len(ours) + sum(dropped.values()) == len(rows)
    else:
        assert [e.label for e in ours] == expected["reward"]
        assert all(str(answer) in e.prompt for e, answer in zip(ours, expected["ground_truth_top_answer"], strict=True))
    assert sum(dropped.values()) > 0


@pytest.mark.parametrize("split", SPLITS)
def test_questions_of_every_split_are_joined_with_their_answers(copy, split):
    questions = load_questions(**base.questions(split))
    assert len(questions) == 9  # the tenth has no partner in TriviaQA
    assert (questions[3].question, questions[3].answer) == ("Who moved to town 3?", "GT3")
    assert questions[3].aliases == ("Also",)


def test_what_a_copy_lacks_is_named(copy, tmp_path):
    whole = tmp_path / "linguistic_calibration"
    with pytest.raises(FileNotFoundError, match="neither a folder sciq_training nor files of that name"):
        load_rows(f"{whole}:sciq_training", "train")
    with pytest.raises(FileNotFoundError, match=r"no split 'dev'; it holds \['ppo', 'ppo_validation'"):
        load_rows(f"{whole}:trivia_qa_paragraph_generation", "dev")


def test_names_are_the_published_ones(monkeypatch):
    monkeypatch.delenv("LC_DATASET", raising=False)
    assert base.rows("sft")["source"] == "tatsu-lab/linguistic_calibration:sft_training"
    assert base.questions("test")["answers_split"] == "validation"
