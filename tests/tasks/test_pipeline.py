"""The whole method at the smallest size, in one process: every stage reads what the stage before it wrote."""

import importlib
import json

import jax
import pytest

from lc_jax import parallel
from tests.test_configs import config_of


def run(name, **overrides):
    """One stage on one mesh of eight devices, its config overridden by dotted names (`__` for the dot)."""
    config = config_of(name, "mini")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
    mesh = parallel.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        importlib.import_module(f"lc_jax.tasks.{config.task}").run(config, mesh)
    return config


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_every_stage(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_OUTPUT", str(tmp_path))
    data = tmp_path / "data"
    small = {"limit": 24, "batch_size": 24, "max_new_tokens": 48}
    run("generate_data", what="paragraphs", output=str(data / "p.jsonl"), num_samples=2, **small)
    run("generate_data", what="summaries", input=str(data / "p.jsonl"), output=str(data / "sft.jsonl"), limit=24)
    assert all("%" in row["claude_summary"] for row in rows(data / "sft.jsonl"))

    fit = {"data__eval_size": 4, "fit__batch_size": 8, "fit__microbatch_size": 8, "fit__num_epochs": 1}
    run("sft_lc", **fit)
    run("sft_factuality", **fit)
    split = {"questions__split": "reward_model", "num_samples": 1, **small}
    paragraph = {"what": "paragraphs", "model": str(tmp_path / "lc_sft/model")}
    run("generate_data", **paragraph, column="lc_sft_generated_paragraph", output=str(data / "a.jsonl"), **split)
    run("generate_data", what="forecasts", input=str(data / "a.jsonl"), output=str(data / "b.jsonl"), **split)
    paragraph |= {"column": "factuality_sft_generated_paragraph", "input": str(data / "b.jsonl")}
    run("generate_data", **paragraph, output=str(data / "c.jsonl"), **split)
    run(
        "generate_data",
        what="correctness",
        input=str(data / "c.jsonl"),
        output=str(data / "reward_model.jsonl"),
        **split,
    )
    run("extract_answers", **fit)
    run("forecast_probs", **fit)
    run("factuality_reward", model=str(tmp_path / "lc_sft/model"), **fit)

    ppo = {
        "ppo__num_steps": 2,
        "ppo__rollout_batch_size": 16,
        "ppo__minibatch_size": 16,
        "ppo__microbatch_size": 8,
        "ppo__decode_batch_size": 16,
        "ppo__response_length": 48,
        "ppo__num_validation": 8,
        "reader__batch_size": 16,
        "optimizer__warmup_steps": 0,
    }
    candidates = {"ppo__num_candidates": 1, "ppo__first_candidate": 1}
    run("ppo", output=str(tmp_path / "lc_rl"), **ppo, **candidates)
    run("ppo_factuality", policy=str(tmp_path / "lc_sft/model"), **ppo, **{"ppo__baseline": "critic_with_answer"})
    metrics = rows(tmp_path / "lc_rl" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1]
    assert all(row["policy/ratio_deviation"] < 1e-5 for row in metrics)
    assert len(rows(tmp_path / "lc_rl" / "rollouts.jsonl")) == 32
    assert [row["step"] for row in rows(tmp_path / "lc_rl" / "validation.jsonl")] == [1] * 8

    for method in ("lc_rl", "lc_sft"):
        folder = str(tmp_path / "evaluation" / method)
        run("evaluate_qa", method=method, model=str(tmp_path / method / "model"), output=folder, **small)
    candidate = tmp_path / "lc_rl" / "candidates" / "step-000002"
    run("evaluate_qa", method="c", model=str(candidate / "model"), output=str(candidate / "evaluation"), **small)
    run("select_checkpoint")
    assert (tmp_path / "lc_rl" / "selected" / "config.json").is_file()
    (tmp_path / "prompts.jsonl").write_text('{"paragraph_generation_prompt": "Write about the country of Lyon."}\n')
    path = tmp_path / "written.jsonl"
    run("generate", prompts=str(tmp_path / "prompts.jsonl"), output=str(path), max_new_tokens=4)
    assert [len(row["tokens"]) <= 4 for row in rows(path)] == [True]
    run("report")
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["method"] for row in results} == {"lc_rl", "lc_sft"}
    assert all(row["num_questions"] == 24 for row in results)
    assert (tmp_path / "reliability.png").stat().st_size > 1000
