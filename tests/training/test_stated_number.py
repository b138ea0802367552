"""The expected score of a stated number: against enumeration, finite differences, and samples on a toy."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from lc_jax import parallel
from lc_jax.data.examples import PLACE
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models import registry
from lc_jax.rl import advantage
from lc_jax.training import stated_number
from lc_jax.types import Example
from tests.tasks.test_own_data import PLAIN, has_trained, run, write

END = 1


class Characters:
    """A tokenizer with a token for each character, which writes numbers digit by digit."""

    def encode_pair(self, prompt, completion, where=""):
        return [ord(c) for c in prompt + completion], len(prompt)

    def end_id(self, prompt):
        return END


def text_of(tokens):
    return "".join(map(chr, tokens))


def encoded(step, label=1.0, target=f"Rome ({PLACE}%)"):
    return stated_number.encode(Characters(), Example("e", "Q: ", target, label), step, 100)


def test_candidates_that_begin_no_other_are_read_where_they_differ():
    example = encoded(50)  # 0, 50, 100: the first digit tells them apart, the others follow
    assert [text_of(row) for row in example.rows] == ["Q: Rome (5", "Q: Rome (10"]
    assert [[(row, at, chr(token)) for row, at, token in own] for own in example.tokens] == [
        [(0, 8, "0")],
        [(0, 8, "5"), (0, 9, "0")],
        [(1, 8, "1"), (1, 9, "0"), (1, 10, "0")],
    ]


def test_the_token_after_a_number_ends_it_where_it_begins_another():
    """10 begins 100: the per cent sign is a part of each candidate."""
    example = encoded(10)
    own = ["".join(chr(token) for _, _, token in candidate) for candidate in example.tokens]
    assert own == ["0%", *(f"{tens}0%" for tens in range(1, 10)), "100%"]
    assert [text_of(row) for row in example.rows] == [
        "Q: Rome (0", *(f"Q: Rome ({tens}0" for tens in range(2, 10)), "Q: Rome (100"
    ]  # fmt: skip


def test_numbers_of_one_token_need_one_row():
    tokenizer = load_tokenizer(base.LLAMA)  # each percentage in brackets is one token
    example = stated_number.encode(tokenizer, Example("e", "Where is it?", f" Rome ({PLACE}%).", 0.0), 10, 100)
    assert len(example.rows) == 1
    assert [len(own) for own in example.tokens] == [1] * 11
    assert {at for own in example.tokens for _, at, _ in own} == {len(example.rows[0]) - 1}
    assert tokenizer.decode([own[0][2] for own in example.tokens][3:5]) == " (30%) (40%)"
    assert stated_number.encode(tokenizer, Example("e", "Where?", f" Rome ({PLACE}%).", 0.0), 10, 3) is None


@pytest.fixture(scope="module")
def model():
    mesh = parallel.make_mesh(1, 4, 2)
    with jax.set_mesh(mesh):
        yield registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), mesh)


def batch_of(*examples):
    return stated_number.dataset(examples).collate(np.asarray([*range(len(examples)), -1]))  # and a dummy row


def test_log_probabilities_are_those_of_whole_texts(model):
    """Each candidate alone, all of its tokens up to the sign that ends it, unpadded."""
    targets = [f"Rome ({PLACE}%)", f"({PLACE}% sure) It is far away"]
    batch = batch_of(*(encoded(10, target=target) for target in targets))
    result = np.asarray(stated_number.candidate_logprobs(model, batch))

    @jax.jit
    def logprobs(tokens):
        hidden = model.bind()(tokens, jnp.asarray([tokens.shape[1]]))
        return jax.nn.log_softmax((hidden @ model.bind().head_matrix()).astype(jnp.float32))[0]

    for row, target in enumerate(targets):
        for number in range(11):
            ids = [ord(c) for c in "Q: " + target.replace(PLACE, str(10 * number))]
            start, end = 3 + target.index(PLACE), ids.index(ord("%")) + 1
            table = np.asarray(logprobs(jnp.asarray([ids])))
            expected = sum(table[i - 1, ids[i]] for i in range(start, end))
            assert result[row, number] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("score", "loss_fn"), stated_number.LOSSES.items())
def test_the_loss_is_the_mean_over_all_statements_that_can_be_made(model, score, loss_fn):
    batch = batch_of(encoded(10, 1.0), encoded(10, 0.0), encoded(10, 0.25))
    sums = {name: float(value) for name, value in loss_fn(model, batch).items()}
    logprobs = np.asarray(stated_number.candidate_logprobs(model, batch), np.float64)[:3]
    total = confidence = 0.0
    for label, row in zip((1.0, 0.0, 0.25), np.exp(logprobs), strict=True):
        for number, prob in enumerate(row / row.sum()):
            value = number / 10
            right, wrong = (
                ((1 - value) ** 2, value**2)
                if score == "expected_brier"
                else (-np.log(max(value, 1e-4)), -np.log(max(1 - value, 1e-4)))
            )
            total += prob * (label * right + (1 - label) * wrong)
            confidence += prob * value
    assert sums["weight"] == 3
    assert sums["loss"] == pytest.approx(total, rel=1e-4)
    assert sums["confidence"] == pytest.approx(confidence, rel=1e-4)
    assert sums["candidate_mass"] == pytest.approx(np.exp(logprobs).sum(), rel=1e-4)


@pytest.mark.parametrize("score", ["brier", "log"])
@pytest.mark.parametrize("label", [0.0, 1.0, 0.3])
def test_the_gradient_is_that_of_finite_differences(score, label):
    values, labels = jnp.asarray(np.linspace(0, 1, 11, dtype=np.float32)), jnp.asarray([label])
    logits = jnp.asarray(np.random.default_rng(0).normal(size=11), jnp.float32)

    def loss(x):
        return stated_number.expected_score(x[None], values, labels, score)[0]

    result = np.asarray(jax.grad(loss)(logits))
    steps = 1e-2 * np.eye(11, dtype=np.float32)
    expected = [float(loss(logits + step) - loss(logits - step)) / 2e-2 for step in steps]
    np.testing.assert_allclose(result, expected, atol=1e-3)
    assert np.abs(result).max() > 0.01


@pytest.mark.parametrize("score", ["brier", "log"])
@pytest.mark.parametrize("truth", [0.1, 0.5, 0.8])
def test_the_best_statement_on_the_grid_is_the_truth(score, truth):
    values = jnp.asarray(np.linspace(0, 1, 11, dtype=np.float32))
    certain = jnp.where(jnp.eye(11) > 0, 0.0, -50.0)  # a model that states one number, for each of them
    right, wrong = (stated_number.expected_score(certain, values, jnp.full(11, y), score) for y in (1.0, 0.0))
    assert values[np.argmin(truth * right + (1 - truth) * wrong)] == pytest.approx(truth)


# --- on a toy, fewer questions than with samples ---------------------------------------------------------------------


def error_after(num_questions, num_samples, learning_rate, seeds=200, truth=0.7):
    """Mean (statement - truth)^2 after so many questions, each answered correctly with 0.7, over many seeds.

    Args:
      num_samples: statements sampled for a question and compared by leave_one_out; 0: the closed form.
    """
    rng, values = np.random.default_rng(0), np.linspace(0, 1, 11, dtype=np.float32)
    closed = jax.jit(jax.grad(lambda x, y: stated_number.expected_score(x, jnp.asarray(values), y, "brier").sum()))
    logits = np.zeros((seeds, 11), np.float32)
    for number in range(num_questions):
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        outcomes = (rng.random(seeds) < truth).astype(np.float32)
        if num_samples:
            chosen = (probs.cumsum(axis=1)[:, None] < rng.random((seeds, num_samples, 1))).sum(axis=2).clip(0, 10)
            scores = -np.square(outcomes[:, None] - values[chosen])
            groups = np.arange(seeds).repeat(num_samples)
            advantages = advantage.leave_one_out(scores.ravel(), groups).reshape(chosen.shape)
            gradient = -(advantages[..., None] * (np.eye(11)[chosen] - probs[:, None])).mean(axis=1)
        else:
            gradient = np.asarray(closed(logits, outcomes))
        logits -= learning_rate * (1 - number / num_questions) * gradient
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float((probs * np.square(values - truth)).sum(axis=1).mean())


def test_fewer_questions_for_the_same_error_than_with_samples():
    """The learning rate is the best of 2, 4, 8 for each; 8 samples a question need 1.3 to 2 times as many."""

    def best(num_questions, num_samples):
        return min(error_after(num_questions, num_samples, rate) for rate in (2, 4, 8))

    closed = best(100, 0)
    assert closed < best(120, 8) < best(120, 4)
    assert closed < best(200, 4)
    assert best(200, 0) < best(400, 8)


# --- the task --------------------------------------------------------------------------------------------------------

ROWS = [
    {"prompt": f"Which city {i}? ", "completion": f"Paris, with {PLACE} per cent.", "label": i % 3 != 0}
    for i in range(12)
]


def test_sft_lowers_the_expected_score(tmp_path):
    settings = {"objective__name": "expected_brier", "data__recipe": "stated_confidence", "fit__num_epochs": 6}
    output = tmp_path / "out"
    run(
        "sft", model=str(PLAIN), output=str(output), data__rows__source=write(tmp_path / "mine.jsonl", ROWS), **settings
    )
    assert has_trained(PLAIN, output / "model")
    losses = [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective__name": "brier"}, r"objective\.name=brier: give one of next_token, expected_brier, expected_log"),
        ({"objective__step": 30}, r"objective\.step=30 does not divide 100: give 25 or 50"),
        ({"objective__name": "expected_log"}, r"with --config\.data\.recipe=demonstrations: give recipe=stated_confid"),
        ({"data__recipe": "stated_confidence"}, r"objective\.name=next_token with .*: give another recipe"),
    ],
)
def test_objectives_that_cannot_be_are_refused(tmp_path, settings, message):
    rows = write(tmp_path / "mine.jsonl", ROWS)
    with pytest.raises(ValueError, match=message):
        run("sft", model=str(PLAIN), output=str(tmp_path / "out"), data__rows__source=rows, **settings)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"completion": "Rome"}, "has 0 places"),
        ({"completion": PLACE * 2}, "has 2 places"),
        ({"label": ""}, "missing l"),
    ],
)
def test_rows_without_one_place_or_an_outcome_are_dropped_with_the_reason(tmp_path, change, reason):
    rows = write(tmp_path / "mine.jsonl", [ROWS[0] | change])
    settings = {"objective__name": "expected_brier", "data__recipe": "stated_confidence"}
    with pytest.raises(ValueError, match=reason):
        run("sft", model=str(PLAIN), output=str(tmp_path / "out"), data__rows__source=rows, **settings)
