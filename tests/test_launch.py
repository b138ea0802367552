"""launch/reproduce.sh: its stages in order and their plan, with tasks that are not run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lc_jax.evaluation.published import tables

ROOT = Path(__file__).resolve().parents[1]
# A `python` that notes what it is called with and leaves the results. For plans, and for checks with CHECK, it is the
# real one; otherwise all stages pass the check.
STUB = """#!/bin/sh
case "$CHECK $*" in
  *configs/plan.py* | yes*configs/check_stages.py*) exec "$REAL_PYTHON" "$@" ;;
  *configs/check_stages.py*)
    for argument in "$@"; do
      case "$argument" in
        --config.stages=*) stages=${argument#*=} ;;
        --config.ready=*)
          cp "$stages" "${argument#*=}"
          sed "s/.*/60/" "$stages" >"${argument#*=}.seconds" ;;
      esac
    done
    exit ;;
esac
echo "$*" >>"$CALLS"
for argument in "$@"; do
  case "$argument" in
    --config.output=*.jsonl) touch "${argument#--config.output=}" ;;
    --config.output=*)
      output="${argument#*=}"
      mkdir -p "$output/model" "$output/checkpoints" "$output/candidates/step-000800/model"
      touch "$output/result.json" ;;
    --config.run=*) mkdir -p "${argument#*=}/selected" ;;
  esac
done
"""


HEADER = (
    "stage", "models", "GB a device", "fits", "hours", "disk GB, running", "then", "API calls", "API $", "with batch"
)  # fmt: skip


@pytest.fixture
def launch(tmp_path):
    """Runs a script of launch/; gives its output and the calls of lc_jax.main."""
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text(STUB)
    (environment / "bin" / "python").chmod(0o755)
    key = subprocess.run(
        'echo "$(pwd)  $(cat pyproject.toml requirements.txt | cksum)"', shell=True, cwd=ROOT, capture_output=True
    )
    (environment / "installed-base").write_bytes(key.stdout)  # nothing to install
    calls = tmp_path / "calls"
    variables = {k: v for k, v in os.environ.items() if not k.startswith("LC_")}
    variables |= {"LC_VENV": str(environment), "LC_OUTPUT": str(tmp_path / "out"), "CALLS": str(calls)}
    variables |= {"REAL_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}

    def run(script, *arguments, **more):
        calls.write_text("")
        command = ["bash", str(ROOT / "launch" / script), *arguments]
        done = subprocess.run(command, env=variables | more, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()

    return run


def test_the_quickstart_is_the_paper_on_the_miniature(launch, tmp_path):
    code, output, calls = launch("quickstart.sh", CHECK="yes")
    assert code == 0, output
    configs = [call.split("--config=configs/")[1].split()[0] for call in calls]
    assert configs == [
        f"{name}.py:mini"
        for name in [
            *["generate_data"] * 2, "sft_lc", "sft_factuality", *["generate_data"] * 4, "extract_answers",
            "forecast_probs", "factuality_reward", "ppo", "ppo_factuality", *["evaluate_qa"] * 5, *["recalibrate"] * 2,
            "report",
        ]
    ]  # fmt: skip
    assert all("published" not in call for call in calls)
    for folder in ("lc_sft", "factuality_rl", "evaluation/lc_rl"):
        assert (tmp_path / "out" / folder).is_dir()
    # They are counted, with the times of benchmarks/results/quickstart-cpu.json until there are others.
    lines = output.splitlines()
    assert "== [1/20] sample paragraphs (about 13 s; 7 min to the end)" in lines
    assert "== [12/20] LC RL (about " in output
    assert "== LC RL: 0 s" in lines
    minutes = [int(line.split("; ")[1].split()[0]) for line in lines if line.endswith(" min to the end)")]
    assert minutes == sorted(minutes, reverse=True)
    _, output, calls = launch("reproduce.sh", "--mini")  # the results are there
    assert len(calls) == 1
    assert output.count("done before") == 20
    assert f"== [12/20] LC RL: done before ({tmp_path}/out/lc_rl/model)" in output


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "message"),
    [
        ("quickstart.sh", ["--fast"], {}, "unknown argument '--fast'; usage: "),
        ("reproduce.sh", ["--mini"], {"LC_SEED": "one"}, "LC_SEED is 'one'; give a whole number"),
        ("reproduce.sh", ["--mini"], {"LC_ACCELERATOR": "gpu"}, "LC_ACCELERATOR is 'gpu'; it may be cuda12, "),
        ("select.sh", [], {}, "usage: launch/select.sh RUN"),
        ("select.sh", ["/no/run"], {}, "/no/run/candidates is not there: train with ppo.num_candidates above 0"),
        ("calibrate.sh", ["--model=m", "--questions=q", "--seeds=a"], {}, "error: --seeds=a: give whole numbers"),
        ("tpu.sh", [], {}, "LC_TPU: name of the TPU slice"),
        ("slurm.sh", [], {}, "SLURM_SUBMIT_DIR: run this with sbatch"),
        ("slurm.sh", [], {"SLURM_SUBMIT_DIR": "/"}, "submit from the repository's root, not from /"),
        ("slurm.sh", [], {"SLURM_SUBMIT_DIR": str(ROOT), "LC_VENV": "/no/venv"}, "/no/venv/bin/python is not there"),
    ],
)
def test_a_mistake_is_one_line_and_runs_nothing(launch, tmp_path, script, arguments, variables, message):
    code, output, calls = launch(script, *arguments, **variables)
    assert code != 0
    assert message in output
    assert len(output.splitlines()) == 1
    assert calls == []
    assert not (tmp_path / "out").exists()


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
    assert output.startswith(f"{message}\nusage: launch/calibrate.sh --model=FOLDER|HUB --questions=DATA")
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
    assert {flags["annotator.name"] for flags in evaluations} == {"rules/short-answer"}
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
    assert "reader.kind" not in flags


def test_a_quoted_home_folder_is_the_home_folder(launch, tmp_path):
    code, output, calls = launch("quickstart.sh", LC_OUTPUT="~/mine", HOME=str(tmp_path))
    assert code == 0, output
    assert f"--config.output={tmp_path}/mine/lc_sft" in calls[2]
    assert (tmp_path / "mine" / "seed").read_text() == "0\n"


def test_the_paper_in_order(launch, tmp_path):
    code, output, calls = launch("reproduce.sh", LC_ANNOTATOR="")
    assert code == 2
    assert "LC_ANNOTATOR is not set" in output
    code, output, calls = launch("reproduce.sh", "--check", LC_ANNOTATOR="")
    assert code == 1  # with everything else that the check has to say
    assert "LC_ANNOTATOR is not set" in output
    assert not calls
    names = {"LC_ANNOTATOR": "openai/judge", "LC_LLAMA_2_7B": "/models/llama"}
    code, output, calls = launch("reproduce.sh", "--config.prompt_dir=words", **names)
    assert code == 0, output
    names = [call.split("configs/")[1].split(".py")[0] for call in calls]
    assert names[:12] == [
        "sft_lc", "sft_factuality", "sft_claude_distill", "extract_answers", "forecast_probs", "factuality_reward",
        "ppo", "evaluate_qa", "select_checkpoint", "ppo_factuality", "evaluate_qa", "select_checkpoint",
    ]  # fmt: skip
    assert all("--config.published=true" in call for call in calls[6:-1] if "select_checkpoint" not in call)
    assert "--config.model=/models/llama" in calls[0]
    assert "--config.questions.split=validation" in calls[7]
    assert names[12:] == ["evaluate_qa"] * 32 + ["generate_data", "generate_data", "evaluate_qa"] * 4 + ["report"]
    assert all("openai/judge" in call for call in [calls[7], *calls[12:-1]] if "--config.what=paragraphs" not in call)
    assert "configs/report.py:paper" in calls[-1]
    assert "Without a vendor's model (LC_VENDOR=provider/model names one)." in output
    assert "Without biographies: LC_KNOWLEDGE is to name FActScore's enwiki-20230401.db" in output
    assert all("--config.prompt_dir=words" in call for call in calls if not re.search("select|report", call))
    # What finished stages needed to resume is gone.
    assert (tmp_path / "out" / "lc_rl" / "selected").is_dir()
    assert not list((tmp_path / "out").glob("*/checkpoints"))
    assert not list((tmp_path / "out").glob("*_rl/candidates/*/model"))


def settings_of(call):
    """The flags of a call by name."""
    return dict(re.findall(r"--config\.([\w.]+)=(.*?)(?= --config|$)", call))


def methods_of(data):
    """The paper's methods on a data set, with another vendor's model."""
    return {re.sub("^GPT-4", "gpt-4.1", row.method) for row in tables() if row.data == data}


def test_the_paper_s_comparisons(launch, tmp_path):
    """Summaries themselves, a vendor's model on 1,000 questions, biographies; a method has the paper's name."""
    variables = {"LC_ANNOTATOR": "openai/judge", "LC_VENDOR": "openai/gpt-4.1", "LC_RETRIEVER": "bm25"}
    variables |= {"LC_KNOWLEDGE": "/data/enwiki-20230401.db", "LC_ENTITIES": "/data/people.txt"}
    code, output, calls = launch("reproduce.sh", **variables)
    assert code == 0, output
    assert "Without" not in output
    calls = calls[12:-1]
    experiments = [(call.split("configs/")[1].split()[0], settings_of(call)) for call in calls]
    summaries = [flags for config, flags in experiments if config == "generate_data.py:sciq"]
    direct = [flags for config, flags in experiments if flags.get("column") and config == "evaluate_qa.py:sciq"]
    data = tmp_path / "out" / "data"
    assert [(flags["what"], flags["output"]) for flags in summaries] == [
        ("paragraphs", f"{data}/sciq-paragraphs.jsonl"),
        ("summaries", f"{data}/sciq-summaries.jsonl"),
    ]
    assert summaries[0]["in_context"] == "true"
    assert summaries[1]["input"] == summaries[0]["output"]
    assert [(flags["column"], flags["paragraphs"]) for flags in direct] == [("claude_summary", summaries[1]["output"])]
    vendor = [flags for config, flags in experiments if config == "evaluate_qa.py:sciq" and "writer.name" in flags]
    assert [(f["method"], f["strategy"], f["uses_confidence"], f["limit"]) for f in vendor] == [
        ("gpt-4.1 0-shot", "0-shot", "false", "1000"),
        ("gpt-4.1 8-shot", "8-shot", "false", "1000"),
        ("gpt-4.1 asked for uncertainty", "uncertainty", "true", "1000"),
        ("gpt-4.1 summary 8-shot", "summary-8-shot", "true", "1000"),
    ]
    people = [flags for config, flags in experiments if config == "evaluate_biography.py"]
    confident = {"LC RL", "LC SFT", "gpt-4.1 asked for uncertainty"}
    assert {flags["method"] for flags in people if flags["uses_confidence"] == "true"} == confident
    ours = {
        published.method
        for published in tables()
        if published.data == "biographies" and "GPT-4" not in published.method
    }
    assert {flags["method"] for flags in people} == ours | {"gpt-4.1 0-shot", "gpt-4.1 asked for uncertainty"}
    assert {flags["knowledge"] for flags in people} == {"/data/enwiki-20230401.db"}
    assert {flags["entities"] for flags in people} == {"/data/people.txt"}
    assert all(bool(flags["model"]) != ("writer.name" in flags) for flags in people)
    names = {flags["method"] for config, flags in experiments if config == "evaluate_qa.py:sciq"}
    theirs = {published.method for published in tables() if published.data == "SciQ"}
    assert names == {
        re.sub("^GPT-4", "gpt-4.1", method) for method in theirs
    }  # every method of the paper, on every set


def test_checkpoints_are_kept_on_request(launch, tmp_path):
    code, output, _ = launch("reproduce.sh", "--keep-checkpoints", LC_ANNOTATOR="openai/judge")
    assert code == 0, output
    assert (tmp_path / "out" / "lc_sft" / "checkpoints").is_dir()
    assert (tmp_path / "out" / "lc_rl" / "candidates" / "step-000800" / "model").is_dir()


@pytest.mark.parametrize("mini", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_plan_runs_nothing(launch, tmp_path, mini):
    code, output, calls = launch("reproduce.sh", "--plan", *["--mini"] * mini)
    assert code == 0, output
    assert calls == []
    assert not (tmp_path / "out").exists()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    table = {line[0]: dict(zip(HEADER, line, strict=True)) for line in lines}
    assert table["LC RL"]["models"].count("(") == 2  # two models
    assert ("select LC RL" in table) != mini
    assert len(table) == (2 + 21 if mini else 2 + 55)
    total = table["all"]
    assert (total["API $"] == "0.00") == mini
    stages = [name for name in table if name not in ("stage", "all") and "---" not in name]
    memory = {name: float(table[name]["GB a device"]) for name in stages}
    assert all(table[name]["fits"] == "yes" for name in stages)
    if mini:
        assert memory["summarise"] == 0  # nobody but the annotator works
        assert 0 < memory["LC SFT"] < memory["LC RL"] < 2
        assert float(table["LC RL"]["disk GB, running"]) < 0.2
        return
    # On eight devices each holds an eighth of float32 parameters, moments and gradients: 4 x 4 bytes.
    assert 16 * 6.74 / 8 < memory["LC SFT"] < 30
    assert memory["ExtractAnswers"] < memory["LC SFT"] < memory["LC RL"] < 75
    # A model that writes has its shard and, for the decode loop, a gathered copy, both in bfloat16.
    assert 2 * 6.74 * (1 / 8 + 1) < memory["evaluate LC RL on sciq"] < 25
    dollars = {name: float(table[f"evaluate LC RL on {name}"]["API $"]) for name in ("trivia_qa", "bioasq")}
    assert dollars["trivia_qa"] > dollars["bioasq"] > 1
    dollars, batched = (float(total[name].replace(",", "")) for name in ("API $", "with batch"))
    assert batched == pytest.approx(dollars / 2, abs=1)
    assert float(total["disk GB, running"]) < 600
    assert total["hours"].startswith(">")


@pytest.mark.filterwarnings("ignore:the load_module")
def test_hours_follow_from_the_benchmarks(tmp_path, capsys):
    from lc_jax.tasks import plan
    from tests.test_configs import config_of

    figures = {
        "sft_step": {"seconds": 1.0, "notes": {"TFLOP/s": 200.0}},
        "generate": {"seconds": 1.0, "notes": {"tokens per second": 5000.0}},
        "ppo_step": {"seconds": 10.0, "notes": {"episodes": 128, "layers": 8}},
    }
    for name, row in figures.items():
        record = {"benchmark": name, "size": {"name": "7B"}, "rows": [row], "hardware": {"device": "NVIDIA H100"}}
        (tmp_path / f"{name}-h100.json").write_text(json.dumps(record))
    stages = tmp_path / "stages"
    stages.write_text(
        "SFT\tsft/model\t--config=configs/sft_lc.py\nRL\trl/model\t--config=configs/ppo.py\t--config.ppo.num_steps=100\n"
        "QA\tqa/result.json\t--config=configs/evaluate_qa.py:bioasq\t--config.model=x/y\t--config.annotator.name=anthropic/claude-haiku-4-5\n"
    )
    config = config_of("plan")
    config.stages, config.figures, config.devices = str(stages), str(tmp_path), "2xh100"
    plan.run(config, None)
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    hours = {row[1].strip(): float(row[5].replace(",", "")) for row in rows[1:]}
    assert hours["SFT"] == pytest.approx(6 * 6.738e9 * 10_000 * 250 * 3 / 200e12 / 2 / 3600, abs=0.006)
    assert hours["RL"] == pytest.approx(100 * 10 * (512 / 128) * (32 / 8) / 2 / 3600, abs=0.006)
    assert hours["QA"] == pytest.approx(1515 * 200 / 5000 / 2 / 3600, abs=0.006)
    assert hours["all"] == pytest.approx(hours["SFT"] + hours["RL"] + hours["QA"], abs=0.02)
    stages.write_text("bad\tmodel\t--config=configs/sft_lc.py\t--config.lr=1\n")
    with pytest.raises(ValueError, match=r"bad: --config.lr: no such setting"):
        plan.run(config, None)
