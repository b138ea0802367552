"""PPO with the reader by rule: literal rewards, a run that is stopped and resumes bit for bit, plan and checks."""

import json
import math

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import base
from lc_jax import memory, parallel
from lc_jax.rl.writer import PolicyWriter
from lc_jax.tasks import ppo, verify
from tests.tasks.test_pipeline import rows
from tests.test_configs import config_of

SIZES = {"num_steps": 2, "rollout_batch_size": 8, "num_samples": 4, "minibatch_size": 8, "microbatch_size": 8}
SIZES |= {"decode_batch_size": 8, "response_length": 8, "num_validation": 2, "save_every": 1, "eval_every": 1}
SIZES |= {"num_candidates": 0, "query_length": 64}

UNREADABLE = math.exp(math.log(1e-6) - 1)  # one below certainty in a wrong answer
# The paragraphs of a rollout, and the probability of the true answer, France.
PARAGRAPHS = {
    "The answer is France (80%). It could also be Spain (10%).": 0.8,
    "The answer is Spain (80%). It could also be the french republic (15%).": 0.15,
    "The answer is Spain (80%).": 0.2 / 100,
    "The answer is Spain (100%).": 1e-5,
    "I do not know.": 0.01,
    "France": UNREADABLE,
    "The answer is perhaps France.": UNREADABLE,
    "It is probably France": 0.75,
}


def config_in(folder, output, **sizes):
    config = config_of("ppo", "mini")
    (folder / "questions.jsonl").write_text("".join(
        json.dumps({"question_id": f"q{i}", "question": f"Where is city {i}?", "answer": "France",
                    "aliases": ["French Republic"], "paragraph_generation_prompt": f"City {i}?"}) + "\n"
        for i in range(20)
    ))  # fmt: skip
    for part in (config.questions, config.validation):
        part.source, part.split = str(folder / "questions.jsonl"), ""
    config.policy = base.LLAMA
    config.reader.kind, config.reader.extractor, config.reader.forecaster = "rules", "", ""
    config.reward.normalization, config.reward.epsilon = 0.0, 1e-6
    config.ppo.update(SIZES | sizes)
    config.output = str(folder / output)
    return config


def run(folder, output, **sizes):
    config = config_in(folder, output, **sizes)
    ppo.check(config)
    mesh = parallel.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        ppo.run(config, mesh)


@pytest.fixture
def literal(monkeypatch):
    """The policy's tokens are its own, but the reader is shown the paragraphs above."""
    texts = list(PARAGRAPHS)
    monkeypatch.setattr(
        PolicyWriter, "decode", lambda self, completions, *_: [texts[i % len(texts)] for i in range(len(completions))]
    )


@pytest.mark.slow
def test_rewards_are_those_of_the_paragraphs_and_the_run_resumes_bit_for_bit(tmp_path, sigterm_after, literal):
    run(tmp_path, "whole", frozen_on_host=True)  # there is no reader to move
    for row in rows(tmp_path / "whole" / "rollouts.jsonl"):
        assert row["reward"] == pytest.approx(5 + math.log(PARAGRAPHS[row["paragraph"]]), abs=1e-4)
        assert ("unreadable" in row) == (PARAGRAPHS[row["paragraph"]] == UNREADABLE)
    steps = rows(tmp_path / "whole" / "metrics.jsonl")
    assert [row["reader/unreadable_rate"] for row in steps] == [0.25, 0.25]
    expected = 5 + float(np.mean([math.log(p) for p in PARAGRAPHS.values()]))
    assert [row["reward"] for row in steps] == pytest.approx([expected] * 2, abs=1e-4)
    assert steps[0]["eval_reward"] == pytest.approx((math.log(0.8) + math.log(0.15)) / 2, abs=1e-4)
    with sigterm_after(0):
        run(tmp_path, "cut")
    run(tmp_path, "cut")
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name])
    for log in ("rollouts.jsonl", "validation.jsonl"):
        assert rows(tmp_path / "whole" / log) == rows(tmp_path / "cut" / log)
    first = load_file(f"{base.LLAMA}/model.safetensors")
    assert any(not np.array_equal(first[name], whole[name]) for name in first)  # it did learn something


def test_the_memory_plan_has_no_reader(tmp_path):
    settings = config_in(tmp_path, "plan").to_dict()
    mesh = parallel.make_mesh()
    rules = memory.plan_ppo(settings, mesh)
    assert {"generate", "logprobs", "policy gradients"} <= {phase.name for phase in rules.phases}
    assert not {"extract", "forecast"} & {phase.name for phase in rules.phases}
    settings["reader"] |= {"kind": "models", "extractor": base.LLAMA, "forecaster": base.LLAMA}
    models = memory.plan_ppo(settings, mesh)
    assert {"extract", "forecast"} <= {phase.name for phase in models.phases}
    peak = {plan is rules: {p.name: p.parameters for p in plan.phases}["generate"] for plan in (rules, models)}
    assert peak[True] < peak[False]


@pytest.mark.slow
def test_verify_checks_the_rules(tmp_path, monkeypatch, capsys):
    of = config_in(tmp_path, "verify")
    monkeypatch.setattr(verify, "load_of", lambda config: of)
    config = config_of("verify")
    config.of = "configs/ppo.py:mini"
    verify.check(config)
    mesh = parallel.make_mesh(**of.mesh)
    with jax.set_mesh(mesh):
        verify.run(config, mesh)
    text = capsys.readouterr().out
    assert "the rules read what is stated" in text
    assert "the reward is proper" in text
    assert "FAILED" not in text
