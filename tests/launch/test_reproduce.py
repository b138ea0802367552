"""launch/reproduce.sh: its stages in order and their plan, with tasks that are not run."""

import json
import re

import pytest

from lc_jax.evaluation.published import tables
from tests.launch.conftest import ROOT, settings_of

HEADER = (
    "stage", "models", "GB a device", "fits", "hours", "disk GB, running", "then", "API calls", "API $", "with batch"
)  # fmt: skip


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
        ("quickstart.sh", ["--fast"], {}, "error: unknown argument '--fast'; usage: "),
        ("reproduce.sh", ["--mini"], {"LC_SEED": "one"}, "LC_SEED is 'one'; give a whole number"),
        ("reproduce.sh", ["--mini"], {"LC_ACCELERATOR": "gpu"}, "LC_ACCELERATOR is 'gpu'; it may be cuda12, "),
        ("select.sh", [], {}, "usage: launch/select.sh RUN"),
        ("select.sh", ["--config.annotator.name=a/b"], {}, "usage: launch/select.sh RUN"),
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
    assert "Without a provider's model (LC_VENDOR=provider/model names one)." in output
    assert "Without biographies: set LC_KNOWLEDGE to FActScore's enwiki-20230401.db" in output
    assert all("--config.prompt_dir=words" in call for call in calls if not re.search("select|report", call))
    # What finished stages needed to resume is gone.
    assert (tmp_path / "out" / "lc_rl" / "selected").is_dir()
    assert not list((tmp_path / "out").glob("*/checkpoints"))
    assert not list((tmp_path / "out").glob("*_rl/candidates/*/model"))


def methods_of(data):
    """The paper's methods on a data set, with another vendor's model."""
    return {re.sub("^GPT-4", "gpt-4.1", row.method) for row in tables() if row.data == data}


def test_the_paper_s_comparisons(launch, tmp_path):
    """Summaries themselves, a provider's model on 1,000 questions, biographies; a method has the paper's name."""
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
