"""The reader by rule: literal forecasts and rewards, properness, and the lowest reward for what cannot be read."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_jax.preflight import Problems
from lc_jax.rl import advantage, checks, outcomes, reader, reward, telemetry
from lc_jax.rl.reader import RulesReader
from lc_jax.rl.verify_reader import results
from lc_jax.types import Question
from tests.test_configs import config_of

FRANCE = Question("q", "Where is Nice?", "In which country is Nice?", "France", ("French Republic",))
SETTINGS = reward.RewardSettings(normalization=0.0, offset=5.0, epsilon=1e-6)


@dataclasses.dataclass(frozen=True)
class Estimate:
    advantages: np.ndarray
    kl_weights: np.ndarray


# (paragraph, probability of the truth, the answers that it offers)
CASES = [
    ("The answer is France (75%). It could also be Spain (25%).", 0.75, {"France": 0.75, "Spain": 0.25}),
    ("The answer is Spain (60%). It could also be the french republic (30%).", 0.3,
     {"Spain": 0.6, "the french republic": 0.3}),
    ("The answer is Spain (60%). It could also be Italy (30%).", 0.1 / 100, {"Spain": 0.6, "Italy": 0.3}),
    ("The answer is Spain (100%).", 1e-5, {"Spain": 0.999}),  # the least that a statement leaves, over 100 answers
    ("The answer is France (100%).", 0.999, {"France": 0.999}),
    ("It is probably Spain.", 0.25 / 100, {"Spain": 0.75}),
    ("It is not France. It is Spain (60%).", 1e-5, {"Spain": 0.6}),
    ("It is not Spain.", 1 / 100, {}),
    ("I do not know.", 1 / 100, {}),
    ("The answer is France (30%). It could also be French Republic (20%).", 0.5,
     {"France": 0.3, "French Republic": 0.2}),
    ("France (34%), Spain (33%) or Italy (34%)", 0.34 / 1.01,
     {"France": 0.34 / 1.01, "Spain": 0.33 / 1.01, "Italy": 0.34 / 1.01}),
]  # fmt: skip
UNREADABLE = [
    ("It is perhaps France.", "'perhaps' is no part"), ("France", "no probability is stated"), ("", "empty"),
    ("It is not Spain. It is France.", "no probability is stated"), ("France (70%). France (70%).", "named twice"),
]  # fmt: skip


def read(paragraphs, question=FRANCE, num_other_answers=100):
    return RulesReader(num_other_answers).read([question] * len(paragraphs), paragraphs, 0)


def rewards_of(reading, settings=SETTINGS, question=FRANCE):
    """Returns the rewards of a reading, as rl/step.py computes them."""
    outcome = outcomes.of([question] * len(reading.answers), reading.answers, reading.forecasts.answer_mask.shape[1])
    return reward.penalize_unreadable(reward.compute(reading.forecasts, outcome, settings), reading.refusals, settings)


def test_forecasts_and_rewards_of_literal_paragraphs():
    reading = read([text for text, _, _ in CASES])
    np.testing.assert_allclose(reward.probability(reading.forecasts.target_logits), [p for _, p, _ in CASES], rtol=1e-5)
    assert reading.answers == [list(probs) for _, _, probs in CASES]
    assert reading.forecasts.answer_mask.tolist() == [[k < len(probs) for k in range(3)] for _, _, probs in CASES]
    listed = reward.probability(reading.forecasts.answer_logits)[reading.forecasts.answer_mask]
    np.testing.assert_allclose(listed, [p for _, _, probs in CASES for p in probs.values()], rtol=1e-5)
    assert (reading.num_dropped, set(reading.refusals)) == (0, {""})
    rewards = rewards_of(reading)
    np.testing.assert_allclose(rewards.total, [5 + math.log(p) for _, p, _ in CASES], rtol=1e-5)
    assert reading.top_answers()[:3] == ["France", "Spain", "Spain"]


def test_what_cannot_be_read_has_the_lowest_reward_and_is_counted():
    reading = read([text for text, _ in UNREADABLE] + ["The answer is Spain (100%).", "It is not France."])
    for refusal, (_, reason) in zip(reading.refusals, UNREADABLE, strict=False):
        assert reason in refusal
    assert reading.answers == [[], [], [], [], [], ["Spain"], []]
    rewards = rewards_of(reading)
    np.testing.assert_allclose(rewards.total[:5], 5 + math.log(1e-6) - 1, rtol=1e-5)
    np.testing.assert_allclose(reward.probability(reading.forecasts.target_logits[:5]), 1e-5, rtol=1e-5)
    np.testing.assert_allclose(rewards.total[5:], 5 + math.log(1e-5), rtol=1e-5)
    assert telemetry.of_reading(reading, rewards)["reader/unreadable_rate"] == pytest.approx(5 / 7)
    rows = list(telemetry.episode_rows([FRANCE] * 7, ["z"] * 7, reading, rewards))
    assert ["unreadable" in row for row in rows] == [True] * 5 + [False] * 2
    assert rows[1]["unreadable"] == "no probability is stated"


def test_decoupled_answers_of_what_cannot_be_read_are_scored_below_wrong_ones():
    """The answer's part and the rest, which trains the percentage, are both at most those of a certain wrong answer."""
    reading = read(["France (70%)", "Spain (60%)", "Spain (100%)", "perhaps Spain (60%)", "France"])
    assert [bool(refusal) for refusal in reading.refusals] == [False, False, False, True, True]
    rewards = rewards_of(reading, reward.RewardSettings("rlcr", normalization=0.0, offset=2.0))
    np.testing.assert_allclose(rewards.parts["correctness"], [1, 0, 0, -1, -1])
    np.testing.assert_allclose(rewards.total, [3 - 0.3**2, 2 - 0.6**2, 2 - 0.999**2, 0, 0], rtol=1e-6)
    rest = rewards.total - rewards.parts["correctness"]
    np.testing.assert_allclose(rest, [2 - 0.3**2, 2 - 0.6**2, 2 - 0.999**2, 1, 1], rtol=1e-6)
    rewards = rewards_of(reading, reward.RewardSettings("rlcr", normalization=5.0, offset=2.0))
    np.testing.assert_allclose(rewards.parts["correctness"], [1, 0, 0, -1, -1])
    np.testing.assert_allclose(rewards.total[3:], -5)


def test_an_unreadable_text_with_a_percentage_trains_its_answer_by_the_score_of_what_cannot_be_read():
    reading = read(["France (70%)", "perhaps Spain (60%)"])
    rewards = rewards_of(reading, reward.RewardSettings("rlcr", normalization=0.0, offset=0.0))
    is_confidence = np.array([[False, True], [False, True]])

    def estimator(scores, trained):
        return Estimate(np.where(trained, scores[:, None], 0), trained.astype(float)), 0.0

    episodes, _ = advantage.by_token(estimator, rewards.total, rewards.parts["correctness"], is_confidence)
    np.testing.assert_allclose(episodes.advantages, [[1, -(0.3**2)], [-1, -1]], rtol=1e-5)


@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=3).filter(lambda values: sum(values) <= 100),
    st.sampled_from([1, 3, 100, 10_000]),
    st.sampled_from([0.0, 5.0]),
    st.sampled_from(list(reward.REWARDS)),
    st.sampled_from([1e-4, 1e-6]),
)
def test_every_statement_has_a_higher_reward_than_what_cannot_be_read(values, others, normalization, name, epsilon):
    names = ["Spain", "France", "Italy"]
    text = "; ".join(f"{name} ({value}%)" for name, value in zip(names, values, strict=False))
    reading = read([text, "I do not know.", "not a statement %"], num_other_answers=others)
    assert np.isfinite(reading.forecasts.target_logits).all()
    assert np.isfinite(reading.forecasts.answer_logits).all()
    settings = reward.RewardSettings(name, normalization=normalization, epsilon=epsilon)
    statement, unknown, unreadable = rewards_of(reading, settings).total
    assert statement > unreadable
    assert unknown > unreadable


@pytest.mark.parametrize("num_other_answers", [3, 100])
@pytest.mark.parametrize("truths", [(0.6, 0.3), (0.75, 0.25), (0.05, 0.05), (0.95, 0.0), (0.1, 0.8), (0.98, 0.01)])
def test_the_log_score_of_a_statement_is_proper(truths, num_other_answers):
    """On a grid of percentages, the best statement about two answers has their true frequencies."""
    grid = sorted({round(100 * q) + d for q in truths for d in (-10, -2, -1, 0, 1, 2, 10)} | {0, 50, 100})
    pairs = [(a, b) for a, b in itertools.product(grid, grid) if min(a, b) >= 0 and a + b <= 100]
    texts = [f"The answer is Spain ({a}%). It could also be Italy ({b}%)." for a, b in pairs]
    scores = {}
    for name in ("Spain", "Italy", "Peru"):  # who is right: the first, the second, or another
        question = Question("q", "", "Where?", name)
        scores[name] = rewards_of(read(texts, question, num_other_answers), question=question).total.astype(np.float64)
    first, second = truths
    expected = first * scores["Spain"] + second * scores["Italy"] + (1 - first - second) * scores["Peru"]
    assert pairs[int(expected.argmax())] == (round(100 * first), round(100 * second))


def test_without_models_nothing_changes_with_sampling_or_memory():
    rules = RulesReader(7)
    assert rules.with_sampling(0, 0.9) is rules
    assert rules.with_models(lambda model: pytest.fail("there is none")) is rules
    assert rules.lists_answers
    (result,) = results(rules, [FRANCE, Question("p", "", "Who?", "St. Louis")], is_miniature=False)
    assert result.verdict == "ok"
    loaded = reader.load({"kind": "rules", "num_other_answers": 7}, None, None, {})
    assert loaded == rules


def problems(**changes):
    config = config_of("ppo", "mini")
    config.reader.kind, config.reader.extractor, config.reader.forecaster = "rules", "", ""
    config.reward.normalization, config.reward.epsilon = 0.0, 1e-6
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    config.dry_run = True
    try:
        checks.check(config.to_dict())
    except Problems as error:
        return [line for line in str(error).splitlines() if "reader" in line]
    return []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reader__forecaster": "runs/f"}, "--config.reader.forecaster=runs/f: reader.kind=rules reads without models"),
        ({"reader__extractor": "runs/e", "reader__forecaster": "runs/f"},
         "--config.reader.extractor=runs/e and --config.reader.forecaster=runs/f: reader.kind=rules reads without"),
        ({"reader__kind": "rule"}, "--config.reader.kind=rule: give one of models, rules"),
        ({"reader__num_other_answers": 0}, "--config.reader.num_other_answers=0: give"),
        ({"reader__kind": "models"}, "reader.forecaster"),
    ],
)  # fmt: skip
def test_a_wrong_combination_is_refused_by_name(changes, message):
    (problem,) = problems(**changes)
    assert message in problem
    assert problems() == problems(reward__name="rlcr") == []
