"""Tests from which position of which model each number of a rollout is read, and that micro-batches add up."""

import collections
import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.inference.generate import Completion
from lc_jax.rl import batch, loss, reward, rollout, update
from lc_jax.rl.reader import AnswerForecasts, Reading
from lc_jax.rl.reward import RewardSettings
from lc_jax.rl.settings import queries
from lc_jax.rl.step import validate
from lc_jax.types import Question
from tests.models.conftest import PRESETS, random_model

PROMPTS = [[3, 9, 4], [11, 2, 8, 6, 30], [40], [7, 7]]
RESPONSES = [[5, 17, 2], [31, 12], [9, 8, 7, 6], []]
COMPLETIONS = [Completion(tokens, [0.0] * len(tokens), True) for tokens in RESPONSES]
TEMPERATURE = 0.5


@pytest.fixture(scope="module")
def mesh():
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        yield mesh


def outputs_alone(model, row, scalar):
    """Returns a model's outputs after each token of one episode, without padding: logits, or values."""
    tokens = [*PROMPTS[row], *RESPONSES[row]]
    module = model.bind()
    out = module(jnp.asarray([tokens]))
    return np.asarray(out if scalar else module.logits(out), np.float64)[0]


def small(model):
    """The model with smaller numbers, so that its probabilities are not all 0 or 1."""
    return model.with_params(jax.tree.map(lambda x: (0.2 * x).astype(x.dtype), model.params))


@pytest.mark.parametrize("preset", PRESETS)
def test_each_number_is_of_the_position_before_its_token(mesh, preset):
    policy, critic = small(random_model(mesh, preset)), random_model(mesh, preset, "scalar")
    episodes = batch.pack(PROMPTS, COMPLETIONS)
    assert episodes.lengths.tolist() == [3, 2, 4, 1]
    run = jax.jit(rollout.policy_outputs), jax.jit(rollout.critic_values)
    (logprobs, entropies), values = run[0](policy, episodes, jnp.float32(TEMPERATURE)), run[1](critic, episodes)
    for row in (0, 2):
        logits, expected = outputs_alone(policy, row, False), outputs_alone(critic, row, True)
        for t, token in enumerate(RESPONSES[row]):
            before = len(PROMPTS[row]) - 1 + t
            scaled = logits[before] / TEMPERATURE
            chances = np.exp(scaled - scaled.max())
            chances /= chances.sum()
            assert logprobs[row, t] == pytest.approx(np.log(chances[token]), rel=1e-4, abs=1e-4)
            assert entropies[row, t] == pytest.approx(-np.sum(chances * np.log(chances + 1e-30)), rel=1e-3, abs=1e-4)
            assert values[row, t] == pytest.approx(expected[before], rel=1e-4, abs=1e-3)
        assert not np.asarray(logprobs[row, len(RESPONSES[row]) :]).any()


def test_prompt_and_response_are_packed_without_a_gap():
    episodes = batch.pack(PROMPTS, COMPLETIONS)
    assert episodes.tokens.tolist() == [
        [3, 9, 4, 5, 17, 2, 0, 0],
        [11, 2, 8, 6, 30, 31, 12, 0],
        [40, 9, 8, 7, 6, 0, 0, 0],
        [7, 7, 0, 0, 0, 0, 0, 0],  # an empty response is one token of padding
    ]
    assert episodes.responses.tolist() == [[5, 17, 2, 0], [31, 12, 0, 0], [9, 8, 7, 6], [0, 0, 0, 0]]
    assert episodes.prompt_lengths.tolist() == [3, 5, 1, 2]
    assert episodes.mask.sum(axis=1).tolist() == [3, 2, 4, 1]
    wide = batch.pack(PROMPTS, COMPLETIONS, response_length=6)
    assert (wide.responses.shape, wide.tokens.shape) == ((4, 6), (4, 16 + 6))
    part = episodes.take(np.asarray([1, 3]))
    assert part.responses.tolist() == [[31, 12, 0, 0], [0, 0, 0, 0]]
    assert wide.take(np.asarray([3])).tokens.shape == (1, 16 + 6)
    values = np.arange(32).reshape(4, 8)  # the positions before the response: 2, 4, 0, 1, and as many more
    responses = np.asarray(rollout.gather_response_positions(jnp.asarray(values), episodes.prompt_lengths, 4))
    assert [row[:n].tolist() for row, n in zip(responses, (3, 2, 4, 1), strict=True)] == [
        [2, 3, 4], [12, 13], [16, 17, 18, 19], [25]
    ]  # fmt: skip


def test_a_rollout_holds_the_rows_in_their_order(mesh):
    """Rows run in order of length, and policy, reference and critic are not confused."""
    policy, reference = small(random_model(mesh)), random_model(mesh)
    critic, episodes = random_model(mesh, kind="scalar"), batch.pack(PROMPTS * 4, COMPLETIONS * 4)
    scored = rollout.score_rollout(
        policy, reference, critic, episodes, temperature=TEMPERATURE, groups=episodes.groups(8)
    )
    logprobs, entropies = rollout.policy_outputs(policy, episodes, jnp.float32(TEMPERATURE))
    mask = episodes.mask
    np.testing.assert_allclose(scored.old_logprobs, logprobs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scored.entropies[mask], np.asarray(entropies)[mask], rtol=1e-4, atol=1e-4)
    ref_logprobs, _ = rollout.policy_outputs(reference, episodes, jnp.float32(TEMPERATURE))
    np.testing.assert_allclose(scored.ref_logprobs, ref_logprobs, rtol=1e-4, atol=1e-3)
    values = np.asarray(rollout.critic_values(critic, episodes))
    np.testing.assert_allclose(scored.old_values[mask], values[mask], rtol=1e-4, atol=1e-3)
    alone = rollout.score_rollout(policy, reference, None, episodes, temperature=TEMPERATURE, groups=episodes.groups(8))
    assert not alone.old_values.any()


def test_a_critic_may_read_other_prompts(mesh):
    """Its values are those of its own prompts; the policy's numbers and all other fields stay."""
    policy, critic = small(random_model(mesh)), random_model(mesh, kind="scalar")
    others = [[8, *prompt, 12] for prompt in PROMPTS]
    plain, other = (batch.pack(prompts, COMPLETIONS) for prompts in (PROMPTS, others))
    both = batch.pack(PROMPTS, COMPLETIONS, critic_prompts=others)
    assert both.critic_prompt_lengths.tolist() == [5, 7, 3, 4]
    np.testing.assert_array_equal(both.critic_tokens, other.tokens)
    np.testing.assert_array_equal(both.tokens, plain.tokens)
    values, expected = (
        rollout.score_rollout(policy, policy, critic, e, temperature=TEMPERATURE, groups=[np.asarray([2, 0])])
        for e in (both, other)
    )
    np.testing.assert_allclose(values.old_values, expected.old_values, rtol=1e-4, atol=1e-4)
    alone = rollout.score_rollout(policy, policy, None, plain, temperature=TEMPERATURE, groups=[np.asarray([2, 0])])
    np.testing.assert_allclose(values.old_logprobs, alone.old_logprobs, rtol=1e-4, atol=1e-4)


def test_micro_batches_add_up_to_the_mean_over_tokens(mesh):
    """Before any update the ratio is 1: the losses are -A and half the squared error, over all 10 tokens of 4 rows."""
    policy, critic = small(random_model(mesh)), random_model(mesh, kind="scalar")
    episodes = batch.pack(PROMPTS * 2, COMPLETIONS * 2)
    scored = rollout.score_rollout(policy, policy, critic, episodes, temperature=TEMPERATURE, groups=episodes.groups(8))
    rng, mask = np.random.default_rng(0), episodes.mask
    advantages, errors = rng.normal(size=(2, *mask.shape)).astype(np.float32)
    scored = dataclasses.replace(scored, advantages=advantages, returns=scored.old_values - errors)
    assert mask.sum() == 20
    for masked, parts in ((True, ([5, 0, 3, 1], [7, 2, 6, 4])), (False, (range(8),))):
        settings = loss.LossSettings(clip_value=1e3, masked=masked)
        count = loss.num_positions(episodes.mask, settings)
        assert count == (20 if masked else 32)
        sums = collections.Counter()
        for rows, (name, model) in itertools.product(parts, (("policy", policy), ("critic", critic))):
            part, objective = scored.take(np.asarray(rows)), update.OBJECTIVES[name]
            total, stats = objective(model, part, count, jnp.float32(TEMPERATURE), settings)
            sums.update({key: float(value) for key, value in (stats | {f"total/{name}": total}).items()})
        where = mask if masked else np.ones_like(mask)
        assert sums["loss/policy"] == pytest.approx(-float(advantages[where].mean()), rel=1e-3, abs=1e-4)
        assert sums["total/policy"] == pytest.approx(sums["loss/policy"])
        assert sums["total/critic"] == pytest.approx(0.1 * sums["loss/value"])
        assert sums["policy/ratio_deviation"] == pytest.approx(0, abs=1e-3)
        if masked:
            assert sums["loss/value"] == pytest.approx(0.5 * float(np.square(errors[mask]).mean()), rel=1e-3)


def test_each_epoch_shuffles_by_the_seed(monkeypatch):
    """Each minibatch has other episodes in each epoch; the seed decides which."""
    rows = []
    episodes = batch.pack([[3]] * 6, [Completion([5 + i], [0.0], True) for i in range(6)])

    def record(state, structure, minibatch, **settings):
        rows.append((minibatch.responses[:, 0] - 5).tolist())
        return state, {}

    monkeypatch.setattr(update, "ppo_step", record)
    settings = update.UpdateSettings(2, 3, 3, 1.0, loss.LossSettings())

    def orders(seed):
        rows.clear()
        update.update(None, None, episodes, tx=None, settings=settings, seed=seed)
        return list(rows)

    one, again, other = orders(1), orders(1), orders(2)
    assert one == again != other
    assert sorted(one[0] + one[1]) == sorted(one[2] + one[3]) == list(range(6))
    assert one[:2] != one[2:]


def questions(count):
    return [Question(f"q{i}", f"Write {i}.", f"Who {i}?", "A") for i in range(count)]


def test_the_order_of_questions_is_the_seeds():
    settings = types.SimpleNamespace(rollout_batch_size=6, num_samples=2)

    def ids(seed, first=0, count=4):
        batches = queries(questions(6), settings, seed, first)
        return [[q.question_id for q in next(batches)] for _ in range(count)]

    one = ids(1)
    assert one == ids(1) != ids(2)
    assert ids(1, first=2, count=2) == one[2:]  # a resumed run continues in the same order
    for ids_of_step in one:
        assert ids_of_step[::2] == ids_of_step[1::2]  # both samples of a question
    assert sorted(one[0][::2] + one[1][::2]) == [f"q{i}" for i in range(6)]  # an epoch holds each once
    assert one[:2] != one[2:]


def test_the_validation_reward_is_without_the_offset():
    forecasts = AnswerForecasts(np.zeros(2, np.float32), np.asarray([[0.0], [9.0]], np.float32), np.ones((2, 1), bool))
    calls = []

    def read(validation, paragraphs, seed):
        calls.append((len(validation), paragraphs, seed))
        return Reading([["a"], ["a"]], forecasts, 0)

    def with_sampling(top_k, top_p):
        calls.append((top_k, top_p))
        return types.SimpleNamespace(read=read)

    def write(policy, validation, prompts, seed):
        calls.append((policy, prompts, seed))
        return [Completion([5], [0.0], True), Completion([5], [0.0], False)]

    trainer = types.SimpleNamespace(
        policy=lambda state: state,
        writer=types.SimpleNamespace(
            encode=lambda q: q.question_id, write=write, decode=lambda completions: ["z"] * len(completions)
        ),
        with_frozen_in=lambda kind: types.SimpleNamespace(reader=types.SimpleNamespace(with_sampling=with_sampling)),
        reward=RewardSettings(),
        seed=11,
    )
    stats, _ = validate(trainer, "params", questions(2), top_p=0.9)
    # log 1/2 each; the forecasts are 1/2 and sigmoid(9), so that 1/2 and next to nothing is missing to 1.
    missing = 0.5 + 1 - reward.probability(9.0)
    assert stats["eval_reward"] == pytest.approx(np.log(0.5) - 5 * missing / 2, abs=1e-5)
    assert stats["eval_stop_rate"] == 0.5
    assert calls == [("params", ["q0", "q1"], 11), (0, 0.9), (2, ["z", "z"], 11)]
    assert trainer.reward.offset == 5.0
