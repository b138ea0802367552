"""Objectives as settings: tokens of confidence, what is refused and warned of, and every line of docs/objectives.md."""

import types

import numpy as np
import pytest

from configs import base
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference.generate import Completion
from lc_jax.rl import advantage, confidence_tokens, objective, reward, step
from lc_jax.rl.advantage import AdvantageSettings
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.settings import PPOSettings
from tests.rl.records import episodes_of
from tests.test_configs import config_of

# --- which tokens state a confidence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("Rome (80%), or Milan (12.5 %).", ["80%", "12.5 %"]),
        ("It is probably Rome; Milan is almost certainly wrong.", ["probably", "almost certainly"]),
        ("I am 90 per cent sure. Confidence: 0.85", ["90 per cent", "0.85"]),
        ("The probability of that is 7", ["7"]),
        ("In 1932 it was 410 km long, improbable as it is", ["improbable"]),
        ("probablyx 80 years", []),
        ("", []),
    ],
)
def test_statements_of_confidence_in_a_text(text, statements):
    assert [text[start:end] for start, end in confidence_tokens.spans(text)] == statements


def test_tokens_of_confidence_are_those_with_a_character_of_a_statement():
    words = ["<s>", "Rome", " (", "8", "0", "%)", " or", " prob", "ably", " Milan", "."]

    def decode(tokens):
        return "".join(words[i] for i in tokens if i)  # special tokens have no text

    rows = [[1, 2, 3, 4, 5, 6, 9, 10], [0, 7, 8, 9], []]
    mask = confidence_tokens.mask(rows, decode, 9)
    texts = [
        [words[t] for t, flag in zip(row, flags, strict=False) if flag] for row, flags in zip(rows, mask, strict=True)
    ]
    assert texts == [["8", "0", "%)"], [" prob", "ably"], []]
    assert not mask[:, 8].any()


@pytest.mark.parametrize("text", ["Köln (80%), 東京 probably (5%)", "It is Rome (70%) or Milan (30%)."])
def test_the_pieces_of_a_real_tokenizer_join_to_its_text(text):
    for path in (base.LLAMA, base.GPT_NEOX):
        tokenizer = load_tokenizer(path)
        ids = tokenizer.encode_prompt(text)
        pieces = confidence_tokens.pieces(ids, tokenizer.decode)
        assert len("".join(pieces)) == len(tokenizer.decode(ids))
        (flags,) = confidence_tokens.mask([ids], tokenizer.decode, len(ids))
        marked = "".join(piece for piece, flag in zip(pieces, flags, strict=True) if flag)
        assert all(f"{number}%" in marked for number in ("80", "5") if f"({number}%)" in text)
        assert "Rome" not in marked


# --- advantages by token ---------------------------------------------------------------------------------------------

PLAIN = AdvantageSettings(whiten_rewards=False, whiten_advantages=False, kl="")
IS_CONFIDENCE = np.asarray([[False, True, False], [False, False, True]])


def by_token(scores, answer_scores, settings=PLAIN, is_confidence=IS_CONFIDENCE, **numbers):
    zeros = np.zeros((2, 3), np.float32)
    episodes = episodes_of([3, 3], **{"old_logprobs": zeros} | numbers)

    def estimator(scores, trained):
        return advantage.estimate(episodes, scores, 0.5, settings, np.asarray([0, 0]), "leave_one_out", trained)

    scores = np.asarray(scores, np.float32)
    answers = None if answer_scores is None else np.asarray(answer_scores, np.float32)
    return advantage.by_token(estimator, scores, answers, is_confidence)[0]


def test_frozen_answers_have_no_advantage_and_no_kl():
    episodes = by_token([3, 1], None)
    assert episodes.advantages.tolist() == [[0, 2, 0], [0, 0, -2]]
    assert episodes.kl_weights.tolist() == [[0, 0.5, 0], [0, 0, 0.5]]


def test_where_answers_are_frozen_a_response_that_states_no_confidence_is_trained_as_a_whole():
    episodes = by_token([3, 1], None, is_confidence=np.asarray([[False, True, False], [False] * 3]))
    assert episodes.advantages.tolist() == [[0, 2, 0], [-2, -2, -2]]


def test_answers_and_confidences_have_advantages_of_their_own():
    episodes = by_token([0.75, -0.5], [1, 0])  # correct less 1/4; wrong less 1/2
    # Answers 1 - 0 and 0 - 1; confidences -1/4 + 1/2 and the reverse.
    assert episodes.advantages.tolist() == [[1, 0.25, 1], [-1, -1, -0.25]]
    assert episodes.kl_weights.tolist() == [[0.5] * 3] * 2


def test_a_response_that_states_no_confidence_is_trained_by_its_whole_score():
    states_confidence = np.asarray([[False, True, False], [False] * 3])
    episodes = by_token([0.75, -0.5], [1, 0], is_confidence=states_confidence)
    # Answers 1 and -1/2, each less the other; confidences -1/4 and nothing.
    assert episodes.advantages.tolist() == [[1.5, -0.25, 1.5], [-1.5, -1.5, -1.5]]


def test_each_kind_of_token_is_whitened_alone():
    settings = AdvantageSettings(whiten_rewards=False, kl="")
    episodes = by_token([0.75, -0.5], [1, 0], settings)
    np.testing.assert_allclose(episodes.advantages, [[1, 1, 1], [-1, -1, -1]], atol=1e-5)


def test_a_reward_of_ones_own_without_a_part_for_answers_cannot_be_decoupled():
    trainer = types.SimpleNamespace(
        ppo=types.SimpleNamespace(stop_penalty=False, baseline="leave_one_out"),
        advantage=AdvantageSettings(tokens="decoupled"),
        reward=types.SimpleNamespace(name="mine:f"),
    )
    rewards, completions = reward.Rewards(np.zeros(2, np.float32), {}), [Completion([5], [0.0], True)] * 2
    with pytest.raises(ValueError, match=r"tokens=decoupled: the reward mine:f has no part 'correctness'"):
        step._advantages(trainer, None, rewards, completions, 0.1, None, np.zeros(2, np.float32))


# --- what is refused, and what is warned of --------------------------------------------------------------------------


def settings_of(ppo=None, rewards=None, advantages=None, losses=None):
    config = config_of("ppo", "mini")
    for name, changes in (("ppo", ppo), ("reward", rewards), ("advantage", advantages), ("loss", losses)):
        config[name].update(changes or {})
    return (
        PPOSettings(**config.ppo), reward.RewardSettings(**config.reward), AdvantageSettings(**config.advantage),
        LossSettings(**config.loss),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"losses": {"kl": "k2"}}, r"advantage\.kl=k1 and --config\.loss\.kl=k2 count the KL penalty twice"),
        (
            {"ppo": {"baseline": "critic"}, "advantages": {"group_std": True}},
            "baseline=critic, which compares no group",
        ),
        ({"ppo": {"baseline": "counterfactual"}, "advantages": {"group_std": True}}, "which compares no group"),
        ({"ppo": {"baseline": "counterfactual"}}, r"name=decision_based, which is not a score of .*rlcr or rewarding"),
        (
            {"ppo": {"baseline": "counterfactual"}, "rewards": {"name": "rlcr"}},
            r"counterfactual with --config\.advantage\.tokens=all: .*give advantage\.tokens=confidence",
        ),
        (
            {"ppo": {"baseline": "same_answer"}, "rewards": {"name": "rlcr"}, "advantages": {"tokens": "decoupled"}},
            r"decoupled with --config\.ppo\.baseline=same_answer: .*give baseline=leave_one_out",
        ),
        ({"ppo": {"baseline": "critic"}, "advantages": {"tokens": "decoupled"}}, "a critic predicts one score"),
        (
            {"advantages": {"tokens": "decoupled"}},
            r"reward\.name=decision_based, which has no part .*reward\.name=rlcr",
        ),
    ],
)
def test_settings_that_contradict_one_another_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        objective.check(*settings_of(**changes))


def test_a_clamped_estimator_other_than_k1_is_refused():
    with pytest.raises(ValueError, match=r"advantage\.clamp_kl=True with --config\.advantage\.kl=k3: only k1"):
        AdvantageSettings(clamp_kl=True, kl="k3")


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({}, []),
        ({"advantages": {"group_std": True}}, ["breaks calibration"]),
        ({"advantages": {"group_std": True}, "rewards": {"name": "factuality"}}, []),
        ({"advantages": {"kl": "k3"}}, [r"--config.advantage.kl=k3: its expected gradient is the gradient of KL"]),
        ({"advantages": {"kl": ""}, "losses": {"kl": "k1"}}, ["--config.loss.kl=k1: its expected gradient is zero"]),
        ({"advantages": {"kl": ""}, "losses": {"kl": "k3"}}, ["the gradient of KL(reference | policy), not that"]),
        ({"advantages": {"kl": ""}, "losses": {"kl": "k2"}}, []),
        ({"advantages": {"kl": "k3"}, "ppo": {"kl_coef": 0.0}}, []),
        ({"rewards": {"name": "rewarding_doubt"}}, ["freeze the answers"]),
        ({"rewards": {"name": "rewarding_doubt"}, "advantages": {"tokens": "confidence"}}, []),
    ],
)
def test_gradients_that_are_not_those_of_the_objective_are_warned_of(changes, messages):
    settings = settings_of(**changes)
    objective.check(*settings)
    result = objective.warnings(*settings)
    assert len(result) == len(messages)
    assert all(part in message for part, message in zip(messages, result, strict=True))
