"""Sizes of PPO: those that cannot be are refused with the nearest that can, and the schedule counts every update."""

import numpy as np
import pytest

from lc_jax.preflight import Problems
from lc_jax.rl import telemetry
from lc_jax.rl.advantage import AdvantageSettings
from lc_jax.rl.kl import make
from lc_jax.rl.reward import RewardSettings
from lc_jax.rl.settings import PPOSettings, queries
from lc_jax.types import Question
from tests.test_configs import config_of


def settings(**changes):
    config = config_of("ppo", "mini")
    config.ppo.update(changes)
    return PPOSettings(**config.ppo)


def test_sizes_that_do_not_divide_are_refused_with_the_nearest_that_do():
    with pytest.raises(Problems) as raised:
        settings(rollout_batch_size=100, minibatch_size=64, num_samples=3)
    assert raised.value.messages == [
        "--config.ppo.num_samples=3 does not divide --config.ppo.rollout_batch_size=100: give a rollout_batch_size of "
        "99 or 102, or num_samples of 2 or 4.",
        "--config.ppo.minibatch_size=64 does not divide --config.ppo.rollout_batch_size=100: give a minibatch_size of "
        "50 or 100.",
    ]


@pytest.mark.parametrize(("minibatch", "epochs", "updates"), [(64, 1, 4), (64, 3, 12), (256, 1, 1), (999, 2, 2)])
def test_the_schedule_counts_the_updates_that_are_made(minibatch, epochs, updates):
    ppo = settings(rollout_batch_size=256, minibatch_size=minibatch, microbatch_size=999, num_epochs=epochs)
    assert ppo.updates_per_step == updates
    assert ppo.microbatch_size == ppo.minibatch_size == min(minibatch, 256)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"baseline": "critc"}, "baseline=critc"),
        ({"num_samples": 1}, "num_samples=1: baseline 'leave_one_out'"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"eval_every": -1}, "eval_every=-1"),
        ({"keep": 0}, "keep=0"),
        ({"num_candidates": 2, "num_validation": 0}, "num_validation=0"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_flag(changes, flag):
    with pytest.raises(ValueError, match=rf"--config\.ppo\.{flag}"):
        settings(**changes)


def test_zero_switches_evaluation_off_or_to_the_end():
    ppo = settings(num_steps=60, eval_every=20)
    assert [step for step in range(1, 61) if ppo.evaluates_after(step)] == [20, 40, 60]
    assert [step for step in range(1, 61) if settings(num_steps=60, eval_every=0).evaluates_after(step)] == [60]
    assert not any(settings(num_steps=60, num_validation=0).evaluates_after(step) for step in range(1, 61))


def test_a_rollout_takes_no_more_questions_than_there_are():
    ppo, questions = settings(rollout_batch_size=8, num_samples=4), [Question(str(n), "q", "x", "y") for n in range(3)]
    ppo.check_questions(2)
    with pytest.raises(ValueError, match=r"rollout_batch_size=8 takes 2 questions a step; there are 1.*give 4 or less"):
        ppo.check_questions(1)
    stream = queries(questions, ppo, 0, 0)
    first = [question.question_id for question in next(stream)]
    assert first[:4] == [first[0]] * 4
    assert first[4:] == [first[4]] * 4
    assert first[0] != first[4]


def test_other_settings_of_ppo_are_refused_with_their_flag():
    with pytest.raises(ValueError, match=r"--config\.reward\.name=decision: give one of decision_based, factuality"):
        RewardSettings("decision")
    with pytest.raises(ValueError, match=r"--config\.kl\.kind=x: give one of fixed, adaptive"):
        make("x", 0.1, 6.0, 0.1)
    with pytest.raises(ValueError, match=r"--config\.advantage\.whiten_groups=8 does not divide .* give 6 or 12"):
        AdvantageSettings(whiten_groups=8).check(12)
    with pytest.raises(ValueError, match=r"--config\.alarms\.min_stop_rate=2"):
        telemetry.Alarms(50.0, 0.01, 2.0, 0.95, 0.9, False)


def test_a_number_that_is_not_finite_names_question_and_step():
    questions = [Question(name, "q", "x", "y") for name in ("a", "b", "c")]
    telemetry.check_episodes("at step 7", questions, {"reward": np.zeros(3)})
    values = np.zeros((3, 2))
    values[1, 1] = np.inf
    with pytest.raises(FloatingPointError, match=r"The value of 1 of 3 episodes at step 7 is not finite.*\['b'\]"):
        telemetry.check_episodes("at step 7", questions, {"reward": np.zeros(3), "value": values})
