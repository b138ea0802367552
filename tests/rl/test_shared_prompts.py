"""Samples of one prompt in one row: the prompt is computed once, and every number stays what it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.inference.generate import Completion
from lc_jax.models.transformer import trainable
from lc_jax.rl import batch, loss, rollout, update
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from tests import programs
from tests.models.conftest import random_model
from tests.rl.test_positions import small

PROMPTS = [[3, 9, 4, 8, 1, 7], [11, 2, 8, 6, 30]]
RESPONSES = [[5], [], [9], [6, 4]]
TEMPERATURE = jnp.float32(0.5)


def episodes_of(prompts, responses, num_samples=2, **options):
    completions = [Completion(tokens, [0.0] * len(tokens), True) for tokens in responses]
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    return batch.pack(repeated, completions, num_samples=num_samples, **options)


@pytest.fixture(scope="module", params=[(1, 1, 1), (2, 2, 2)], ids=["one device", "eight devices"])
def mesh(request):
    with jax.set_mesh(programs.mesh_of(*request.param)) as mesh:
        yield mesh


def test_a_row_holds_a_prompt_once_and_its_responses_behind():
    shared = episodes_of(PROMPTS, RESPONSES).share_prompts()
    assert shared.tokens.tolist() == [[3, 9, 4, 8, 1, 7, 5, 0], [11, 2, 8, 6, 30, 9, 6, 4]]
    assert shared.segment_ids.tolist() == [[0, 0, 0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 0, 1, 2, 2]]
    # Of the last token of the prompt for a first token; past a response any column of the row.
    assert shared.columns.tolist() == [[5, 6, 7, 7], [5, 7, 7, 7], [4, 5, 6, 7], [4, 6, 7, 7]]
    padded = episodes_of([[3, 9, 4, 8, 1], PROMPTS[1]], RESPONSES).share_prompts()
    assert padded.segment_ids.tolist()[0] == [0, 0, 0, 0, 0, 1, 2, -1]


def test_a_micro_batch_holds_only_what_its_models_read():
    episodes = episodes_of(PROMPTS, RESPONSES)
    shared = episodes.microbatch(np.arange(4))
    assert shared.pass_positions() == (16, 16)  # prompts of 6 and 5, responses of 1, 1, 1 and 2
    sizes = [
        (e.tokens.size, e.critic_tokens.size, e.shared is not None) for e in map(shared.read_by, ("policy", "critic"))
    ]
    assert sizes == [(0, 0, True), (0, 32, False)]
    plain = episodes.microbatch(np.arange(3))  # two samples and one
    assert plain.pass_positions() == (24, 7 + 7 + 6)
    assert plain.read_by("policy").tokens.size == 24
    both = shared.read_by("policy", "critic")
    assert both.tokens.size == 0
    assert both.critic_tokens.size == 32
    assert both.shared is not None


def test_prompts_are_shared_only_where_that_halves_the_positions():
    assert episodes_of(PROMPTS, [[5] * 9, [6] * 4, [], []]).share_prompts() is None  # 2 rows of 20 in place of 4 of 16
    assert episodes_of([[7] * 600], [[5], [6]], 2).share_prompts() is None  # wider than MAX_SHARED_WIDTH
    assert episodes_of([[7] * 400], [[5], [6]], 2).share_prompts() is not None
    assert episodes_of(PROMPTS * 2, RESPONSES, 1).share_prompts() is None  # one sample of each
    episodes = episodes_of(PROMPTS, RESPONSES)
    assert episodes.take(np.asarray([0, 1, 2])).share_prompts() is None  # two samples and one
    four = episodes_of(PROMPTS, [[5]] * 8, 4)
    assert four.take(np.arange(8)).share_prompts() is not None
    assert four.take(np.arange(6)).share_prompts() is None  # four samples and two, on average three
    assert episodes.take(np.asarray([1, 0])).share_prompts() is not None
    assert episodes_of(PROMPTS, RESPONSES, response_length=4).share_prompts() is None  # published statistics
    with jax.set_mesh(programs.mesh_of(2)):
        assert episodes.share_prompts() is not None  # a row for each device
        assert episodes.take(np.asarray([0, 1])).share_prompts() is None  # both devices would compute all of it


def test_samples_of_a_prompt_stay_together():
    rng = np.random.default_rng(1)
    responses = [[5] * int(n) for n in rng.integers(1, 20, 24)]
    episodes = episodes_of([[number] for number in range(6)], responses, 4)
    rows = list(episodes.minibatches(2, 8, seed=3))
    assert sorted(np.concatenate(rows[:3]).tolist()) == list(range(24))
    assert [sorted(set(part // 4)) for part in map(np.asarray, rows[:3])] != [[0, 1], [2, 3], [4, 5]]
    for part in rows:
        assert part.reshape(2, 4).tolist() == [list(range(4 * p, 4 * p + 4)) for p in part[::4] // 4]
    groups = list(episodes.groups(8))
    longest = [max(map(len, responses[4 * p : 4 * p + 4])) for g in groups for p in g[::4] // 4]
    assert longest == sorted(longest)
    assert all(set(np.bincount(group // 4)) <= {0, 4} for group in groups)
    alone = episodes_of([[3]] * 24, responses, 1)
    assert (
        np.concatenate(list(alone.minibatches(1, 8, seed=3))).tolist()
        == np.random.default_rng(3).permutation(24).tolist()
    )


@pytest.mark.parametrize("preset", ["tiny-llama", "tiny-gpt-neox"])
def test_numbers_and_gradients_are_those_of_rows_of_their_own(mesh, preset):
    policy = small(random_model(mesh, preset))
    rng = np.random.default_rng(0)
    responses = [rng.integers(1, 90, n).tolist() for n in (5, 1, 7, 0, 3, 9, 2, 6)] * 4
    episodes = episodes_of([rng.integers(1, 90, n).tolist() for n in (30, 25, 18, 33, 28, 31, 20, 22)], responses, 4)
    advantages = rng.normal(size=episodes.mask.shape).astype(np.float32)
    episodes = dataclasses.replace(episodes, advantages=advantages, old_logprobs=-3 * np.ones_like(advantages))
    rows = np.arange(len(responses))
    packed, plain = episodes.microbatch(rows), dataclasses.replace(episodes.take(rows), prompt_ids=None)
    assert packed.shared is not None
    outputs = [jax.jit(rollout.policy_outputs)(policy, parallel.put_batch(e), TEMPERATURE) for e in (packed, plain)]
    mask = episodes.mask
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_allclose(np.asarray(ours)[mask], np.asarray(theirs)[mask], rtol=1e-4, atol=1e-5)
    assert not np.asarray(outputs[0][0])[~mask].any()

    def gradient(e):
        zeros = jax.tree.map(jnp.zeros_like, policy.params)
        count = jnp.float32(mask.sum())
        return update.add_gradients(
            zeros, policy, parallel.put_batch(e), count, TEMPERATURE,
            objective=update.policy_objective, settings=loss.LossSettings(),
        )  # fmt: skip

    (ours, stats), (theirs, expected) = gradient(packed), gradient(plain)
    assert float(stats["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7)


def test_a_rollout_and_its_first_update_agree(mesh, monkeypatch):
    """Scored and updated in the same micro-batches of shared prompts: the ratio is 1 before the first update."""
    actor_critic = ActorCritic(small(random_model(mesh)), None)
    policy = actor_critic.policy
    rng = np.random.default_rng(0)
    responses = [rng.integers(1, 90, n).tolist() for n in (5, 1, 7, 0, 3, 9, 2, 6)] * 4
    episodes = episodes_of([rng.integers(1, 90, 40).tolist() for _ in range(8)], responses, 4)
    reads, read_by = [], batch.Episodes.read_by

    def record(self, *models):
        reads.append((models, self.shared is not None))
        return read_by(self, *models)

    monkeypatch.setattr(batch.Episodes, "read_by", record)
    groups = list(episodes.first_microbatches(32, 16, seed=0))
    scored = rollout.score_rollout(policy, policy, None, episodes, temperature=0.5, groups=groups)
    plain, _ = rollout.policy_outputs(policy, dataclasses.replace(episodes, prompt_ids=None), TEMPERATURE)
    np.testing.assert_allclose(scored.old_logprobs, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(scored.old_logprobs, scored.ref_logprobs)
    tx = make_optimizer(
        OptimizerSettings(1e-3, 1, 0, "constant", 0.9, 0.999, 1e-8, 0.0, 1.0), trainable(actor_critic.params())
    )
    settings = update.UpdateSettings(1, 32, 16, 0.5, loss.LossSettings())
    state = states.create(actor_critic.params(), tx)
    _, (stats,) = update.update(state, actor_critic.with_params(None), scored, tx=tx, settings=settings, seed=0)
    assert stats["policy/ratio_deviation"] < 1e-5
    assert reads == [(("policy",), True)] * 4  # two micro-batches, scored and updated
