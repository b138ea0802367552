"""launch/calibrate.sh: its stages, and what it refuses, with tasks that are not run."""

import pytest

from lc_jax.planning.stages import load_profile
from tests.launch.conftest import STUB, settings_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=m"], "error: give --model and --questions"),
        (["--model=m", "--questions=q", "--fast"], "error: unknown argument '--fast'"),
        (["--model=m", "--questions=q", "--reader=human"], "error: unknown argument '--reader=human'"),
        (["--model=m", "--questions=q", "--output="], "error: unknown argument '--output='"),
    ],
)
def test_calibrate_says_how_it_is_used(launch, tmp_path, arguments, message):
    code, output, calls = launch("calibrate.sh", *arguments)
    assert code == 2
    assert output.startswith(f"{message}\nusage: launch/calibrate.sh --model=FOLDER|HUB|FILE.gguf --questions=DATA")
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test=sft=t.csv"], "error: --test=sft=t.csv: the name sft is taken; give another"),
        (["--test=a=t.csv", "--test=a=u.csv"], "error: --test=a=u.csv: the name a is taken; give another"),
        (["--test=a/b=t.csv"], "error: --test=a/b=t.csv: write NAME=DATA, with letters, digits, - and _ in NAME"),
        (["--seeds=,"], "error: --seeds=,: give whole numbers with commas between, such as 0,1"),
    ],
)
def test_calibrate_refuses_names_that_it_cannot_use(launch, arguments, message):
    code, output, calls = launch("calibrate.sh", "--model=m", "--questions=q", *arguments)
    assert (code, output.strip(), calls) == (2, message, [])


def calibration(launch, tmp_path, *arguments, num_validation=30):
    """The calls of launch/calibrate.sh: the names of configs and their settings."""
    prepare(tmp_path, num_validation)
    code, output, calls = launch(
        "calibrate.sh", "--model=m", "--questions=q.csv", f"--output={tmp_path}/out", *arguments
    )
    assert code == 0, output
    return [(call.split("configs/")[1].split(".py")[0], settings_of(call)) for call in calls]


def prepare(tmp_path, num_validation):
    """Writes what the first stages of launch/calibrate.sh leave, so that they are skipped."""
    data = tmp_path / "out" / "data"
    for name in (".", "places"):
        (data / name).mkdir(parents=True, exist_ok=True)
        (data / name / "test.jsonl").touch()  # the questions are split
    (data / "validation.jsonl").write_text("{}\n" * num_validation)
    (data / "sizes.flags").write_text("ppo --config.ppo.num_steps=7\n")


def test_calibrate_samples_fine_tunes_and_evaluates(launch, tmp_path):
    calls = calibration(launch, tmp_path, "--test=places=p.csv", "--seeds=0,1")
    assert [name for name, _ in calls if name in ("sft_lc", "ppo", "report")] == ["sft_lc", "ppo"] * 2 + ["report"]
    evaluations = [flags for name, flags in calls if name == "evaluate_qa"]
    assert {flags["annotator.name"] for flags in evaluations} == {"rules/one-answer"}
    decoded = {flags["method"]: flags.get("temperature") for flags in evaluations}  # LC SFT and LC RL as in the profile
    assert {name: decoded[name] for name in ("few shots", "own probability", "LC SFT", "LC RL")} == {
        "few shots": "0", "own probability": "0", "LC SFT": None, "LC RL": None,
    }  # fmt: skip
    methods = [(flags["data"], flags["method"]) for flags in evaluations]
    base = ["few shots", "asked for a percentage", "own probability", "agreement of samples"]
    trained = [("validation", "LC SFT"), ("test", "LC SFT"), ("places", "LC SFT")]
    trained += [("validation", "LC RL"), ("test", "LC RL"), ("places", "LC RL")]
    assert methods == [(data, method) for data in ("test", "places") for method in base] + trained * 2
    out = tmp_path / "out"
    rl = [flags for name, flags in calls if name == "ppo"]
    assert [(flags["policy"], flags["output"], flags["seed"]) for flags in rl] == [
        (f"{out}/lc_sft/seed{seed}/model", f"{out}/lc_rl/seed{seed}", seed) for seed in "01"
    ]
    assert {(flags["reader.kind"], flags["reward.normalization"]) for flags in rl} == {("rules", "0")}
    fits = [(flags["evaluation"], flags["validation"]) for name, flags in calls if name == "recalibrate"]
    assert (f"{out}/evaluation/places-lc_rl-seed1", f"{out}/validation/lc_rl-seed1") in fits
    assert len(fits) == 8
    assert {flags["questions.source"] for flags in evaluations if flags["data"] == "places"} == {
        f"{out}/data/places/test.jsonl"
    }


def test_calibrate_recalibrates_with_thirty_validation_questions(launch, tmp_path):
    calls = calibration(launch, tmp_path, num_validation=29)
    assert "recalibrate" not in [name for name, _ in calls]


def test_calibrate_does_not_take_results_of_other_questions_for_its_own(launch, tmp_path):
    calibration(launch, tmp_path)
    out = tmp_path / "out"
    code, output, calls = launch("calibrate.sh", "--model=other", "--questions=q.csv", f"--output={out}")
    assert code == 2
    assert output.startswith(
        f"error: {out} is of a run with other settings; give another --output, or these: --model=m "
    )
    assert calls == []


def test_calibrate_continues_without_rows_that_could_not_be_judged_and_says_so(launch, tmp_path):
    failing = STUB.replace('echo "$*"', 'case "$*" in *few-shot*) exit "$CODE" ;; esac\necho "$*"')
    (tmp_path / "venv" / "bin" / "python").write_text(failing)
    prepare(tmp_path, 30)
    command = ["calibrate.sh", "--model=m", "--questions=q.csv", f"--output={tmp_path}/out"]
    code, output, calls = launch(*command, CODE="3")
    assert code == 1
    assert "left out: evaluate few shots on test (the error is above)" in output
    assert "configs/report.py" in calls[-1]
    code, output, calls = launch(*command, CODE="75")
    assert code == 75  # interrupted
    assert "left out" not in output


def test_calibrate_trains_readers_from_another_annotator(launch, tmp_path):
    calls = calibration(launch, tmp_path, "--annotator=anthropic/claude-haiku-4-5")
    names = [name for name, _ in calls]
    assert names[names.index("sft_lc") :][:6] == [
        "sft_lc", "generate_data", "generate_data", "extract_answers", "forecast_probs", "ppo",
    ]  # fmt: skip
    (flags,) = [flags for name, flags in calls if name == "ppo"]
    out = tmp_path / "out"
    assert flags["reader.extractor"] == f"{out}/extract_answers/seed0/model"
    assert flags["reader.forecaster"] == flags["critic"] == f"{out}/forecast_probs/seed0/model"
    assert not {"reader.kind", "reward.normalization"} & flags.keys()


@pytest.mark.parametrize("name", ["calibrate-small", "calibrate-7b"])
def test_profiles_leave_the_penalty_on_the_sum_to_the_reader(name):
    """The penalty on the sum of forecasts is off for rules alone: trained readers need it."""
    flags = [flag for group in load_profile(name).values() for flag in group]
    assert flags
    assert not [flag for flag in flags if "reward.normalization" in flag or "reader" in flag]
