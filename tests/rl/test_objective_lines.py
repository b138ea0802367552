"""Every line of flags in docs/objectives.md is one that the command takes, and makes a step of training."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import base
from lc_jax import parallel, settings
from lc_jax.data.questions import load_train_and_validation
from lc_jax.rl import advantage, kl, objective, reward
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.settings import PPOSettings, queries
from lc_jax.rl.step import step
from lc_jax.tasks import ppo as task
from lc_jax.tasks import sft
from lc_jax.training import stated_number
from tests.tasks.test_own_data import PLAIN, write

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "objectives.md").read_text()
LINES = [
    line.replace("MODULE:FUNCTION", "tests.rl.test_objective_lines:own_reward")
    for line in re.findall(r"^\| `(--config[^`]*)` \|", PAGE, re.MULTILINE)
]
PPO_LINES = [line for line in LINES if "objective.name" not in line]
SIZES = "num_steps=1 rollout_batch_size=8 num_samples=4 minibatch_size=8 microbatch_size=8 decode_batch_size=8 "
SIZES = [f"--config.ppo.{size}" for size in (SIZES + "response_length=8 num_validation=0").split()]


def own_reward(forecasts, outcomes, settings):
    return reward.brier(forecasts, outcomes, settings)


def parse(line, *flags):
    config, others = settings.parse(["--config=configs/ppo.py:mini", *SIZES, *flags, *line.split(" ")])
    assert not others
    return config


def records(config):
    return (
        PPOSettings(**config.ppo),
        reward.RewardSettings(**config.reward),
        advantage.AdvantageSettings(**config.advantage),
        LossSettings(**config.loss),
    )


def test_the_page_has_every_name():
    assert len(PPO_LINES) > 25
    text = " ".join(LINES)
    for name in reward.REWARDS:
        assert f"reward.name={name}" in text
    names = {
        "ppo.baseline": advantage.BASELINES,
        "advantage.tokens": advantage.TOKENS,
        "reward.target": reward.TARGETS,
        "advantage.kl": kl.ESTIMATORS,
        "loss.kl": kl.ESTIMATORS,
        "objective.name": ("next_token", *stated_number.LOSSES),
    }
    assert not [f"{flag}={name}" for flag in names for name in names[flag] if f"{flag}={name}" not in text]


@pytest.mark.parametrize("line", PPO_LINES)
def test_the_command_takes_every_line(line):
    objective.check(*records(parse(line)))


def test_lines_that_the_page_says_are_warned_of_are():
    rows = re.findall(r"^\| `(--config[^`]*)` \|(.*)", PAGE, re.MULTILINE)
    warned = {line for line, rest in rows if "warned of" in rest or "a warning says so" in rest}
    result = {line for line, _ in rows if line in PPO_LINES and objective.warnings(*records(parse(line)))}
    assert result == warned


@pytest.mark.parametrize("line", [line for line in LINES if line not in PPO_LINES])
def test_sft_takes_every_line(line, tmp_path):
    place = "{confidence}" if "stated_confidence" in line else "50"
    rows = [{"prompt": f"Where {i}? ", "completion": f"Rome, {place} per cent."} for i in range(8)]
    rows = [row | ({"label": i % 2} if "stated_confidence" in line else {}) for i, row in enumerate(rows)]
    flags = [f"--config.model={PLAIN}", f"--config.output={tmp_path}/out"]
    flags.append(f"--config.data.rows.source={write(tmp_path / 'mine.jsonl', rows)}")
    config, _ = settings.parse(["--config=configs/sft.py:mini", *flags, *line.split(" ")])
    sft.check(config)


@pytest.fixture(scope="module")
def trainers():
    """A trainer with its state by whether it has a critic, from the miniature's base models, whose heads are zero."""
    results, mesh = {}, parallel.make_mesh(1, 4, 2)
    flags = [f"--config.{name}={base.LLAMA}" for name in ("policy", "critic", "reader.forecaster")]
    flags += [f"--config.reader.extractor={base.GPT_NEOX}", "--config.reader.batch_size=8"]
    with jax.set_mesh(mesh):
        for baseline in ("critic_with_answer", "leave_one_out"):
            config = parse(f"--config.ppo.baseline={baseline}", *flags)
            results[baseline.startswith("critic")] = [*task.build(config, mesh, PPOSettings(**config.ppo))]
        yield results


@pytest.mark.slow
@pytest.mark.parametrize("line", PPO_LINES)
def test_every_line_makes_a_step(line, trainers):
    ppo, rewards, advantages, loss = records(parse(line))
    trainer, state = trainers[ppo.uses_critic]
    trainer = dataclasses.replace(trainer, ppo=ppo, reward=rewards, advantage=advantages, loss=loss)
    sources = {"source": "miniature", "split": "ppo", "answers": None, "answers_split": None, "columns": ""}
    train, _ = load_train_and_validation(sources, sources, 0, 0)
    trainer.describe(state, 0)
    done = step(trainer, state, kl.make("fixed", 0.02, 6.0, 0.1), next(queries(train, ppo, 0, 0)), 0)
    trainers[ppo.uses_critic][1] = done.state
    assert np.isfinite([done.stats["loss"], done.stats["grad_norm"], done.stats["reward"]]).all()
    assert ("loss/kl" in done.stats) == bool(loss.kl)
