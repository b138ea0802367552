"""launch/compare.sh: every objective gets the same models and questions, with tasks that are not run."""

from tests.launch.conftest import settings_of

NAMES = [
    *("rloo", "ppo", "same_answer", "dr_grpo", "grpo_no_std", "grpo"),
    *("brier", "spherical", "threshold", "rlcr", "rlcr_group", "dcpo", "doubt"),
]


def runs_of(calls, config):
    return [settings_of(call) for call in calls if f"configs/{config}.py" in call]


def test_objectives_differ_in_nothing_but_their_flags(launch, tmp_path):
    code, output, calls = launch("compare.sh", "--seeds=3", CHECK="no")
    assert code == 0, output
    seed = f"{tmp_path}/out/miniature/seed3"
    quickstart, *runs = runs_of(calls, "ppo")
    assert quickstart["output"] == f"{seed}/lc_rl"
    assert [run.pop("output") for run in runs] == [f"{tmp_path}/out/models/{name}-seed3" for name in NAMES]
    common = {
        "policy": f"{seed}/lc_sft/model",
        "seed": "3",
        "critic": f"{seed}/forecast_probs/model",
        "reader.forecaster": f"{seed}/forecast_probs/model",
        "reader.extractor": f"{seed}/extract_answers/model",
    }
    own = {name: dict(run.items() - common.items()) for name, run in zip(NAMES, runs, strict=True)}
    assert all(common.items() <= run.items() for run in runs)
    plain = {"ppo.baseline": "leave_one_out", "advantage.tokens": "all"}
    assert own["rloo"] == {"reward.name": "decision_based"} | plain
    assert own["rlcr"] == {"reward.name": "rlcr", "reward.offset": "0"} | plain
    assert dict(own["grpo"].items() - own["grpo_no_std"].items()) == {"advantage.group_std": "True"}
    assert own["grpo_no_std"].items() < own["grpo"].items()


def test_every_method_is_reported_beside_its_isotonic_twin_fitted_on_validation_questions(launch, tmp_path):
    code, output, calls = launch("compare.sh", "--seeds=0,1", "--objectives=grpo,rlcr", CHECK="no")
    assert code == 0, output
    twins = runs_of(calls, "recalibrate")
    twins = [run for run in twins if str(tmp_path / "out/evaluation") in run["output"]]
    assert [run["output"].split("/")[-1] for run in twins] == [
        f"{name}-seed{seed}-isotonic" for seed in (0, 1) for name in ("lc_sft", "grpo", "rlcr")
    ]
    for run in twins:
        assert run["validation"] == run["evaluation"].replace("/evaluation/", "/validation/")
    evaluations = {run["output"]: run for run in runs_of(calls, "evaluate_qa")}
    assert all(evaluations[run["validation"]]["questions.split"] == "ppo_validation" for run in twins)
    assert all("questions.split" not in evaluations[run["evaluation"]] for run in twins)
    report = runs_of(calls, "report")[-1]
    assert report["baseline"] == "LC SFT"
    assert report["methods"].startswith("('LC SFT', 'LC SFT + isotonic', 'GRPO with std', 'GRPO with std + isotonic'")


def test_settings_are_looked_up_before_the_quickstart_runs(launch):
    code, output, calls = launch(
        "compare.sh", "--seeds=0", "--objectives=brier", "--config.ppo.kl_coef=0.1", CHECK="no"
    )
    assert code == 0, output
    assert calls[0].endswith("--config=configs/ppo.py:mini --config.ppo.kl_coef=0.1 --help")
    assert [run["ppo.kl_coef"] for run in runs_of(calls, "ppo") if run.get("output", "").endswith("brier-seed0")] == [
        "0.1"
    ]


def test_a_run_of_calibrate_gives_its_questions_and_rules(launch, tmp_path):
    run = tmp_path / "mine"
    (run / "lc_sft/seed0/model").mkdir(parents=True)
    (run / "data").mkdir()
    (run / "data/sizes.flags").write_text("ppo --config.ppo.num_steps=2\n")
    code, output, calls = launch("compare.sh", f"--from={run}", "--objectives=brier", CHECK="no")
    assert code == 0, output
    [training] = runs_of(calls, "ppo")
    assert training["questions.source"] == f"{run}/data/ppo.jsonl"
    assert training["reader.kind"] == "rules"
    assert training["reward.normalization"] == "0"
    assert {run["annotator.name"] for run in runs_of(calls, "evaluate_qa")} == {"rules/short-answer"}
    code, output, calls = launch("compare.sh", f"--from={run}", "--objectives=rlcr,doubt", CHECK="no")
    assert code == 0, output
    runs = runs_of(calls, "ppo")  # whatever the baseline and the tokens of the profile are
    assert [training["ppo.baseline"] for training in runs] == ["leave_one_out", "leave_one_out"]
    assert [training["advantage.tokens"] for training in runs] == ["all", "confidence"]
    code, output, _ = launch("compare.sh", f"--from={run}", "--seeds=1")
    assert code == 2
    assert "has no model of seed 1" in output


def test_mistakes_are_named_before_anything_runs(launch):
    for arguments, message in [
        (["--objectives=brier,best"], "error: --objectives: no best; there are rloo ppo same_answer"),
        (["--seeds=a"], "error: --seeds=a: give whole numbers"),
        (["--from=/no/run"], "no data/sizes.flags there; give the --output of a run of launch/calibrate.sh"),
        (["--fast"], "unknown argument '--fast'"),
    ]:
        code, output, calls = launch("compare.sh", *arguments)
        assert code == 2
        assert message in output
        assert calls == []
