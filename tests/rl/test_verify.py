"""`verify` finds faults planted into arithmetic, tokens and metrics, and none where there are none."""

import dataclasses
import shutil
from collections import defaultdict

import numpy as np
import pytest

from configs import base
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.evaluation import metrics
from lc_jax.inference import writing
from lc_jax.rl import advantage, batch, reward, telemetry, verify
from lc_jax.tasks import verify as task

TEXTS = ["Write about the population of the town of Kofu.", "Write about Kofu.", "country", "the clock of the city"]


def failed(results):
    return {result.name for result in results if result.verdict == "FAILED"}


def literal(rewards=None):
    results = verify.arithmetic(advantage.AdvantageSettings(), rewards or reward.RewardSettings())
    return failed([*results, verify.Result.of("metrics", lambda: verify.calibration_metrics(task._metrics()))])


def masked_value_bootstrapping(patch):
    """V at the padding after the last token enters the last token's delta."""
    estimate = advantage.advantages_and_returns

    def bootstrapped(rewards, values, mask, settings):
        estimates = estimate(rewards, values, mask, settings)
        following = np.pad(values[:, 1:], ((0, 0), (0, 1)))
        last = mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1)))
        return tuple(x + np.where(last, following, 0.0) for x in estimates)

    patch.setattr(advantage, "advantages_and_returns", bootstrapped)


def terminal_reward_on_a_masked_token(patch):
    shape = advantage.shape_rewards

    def late(scores, logprobs, ref_logprobs, lengths, *args, **settings):
        return shape(scores, logprobs, ref_logprobs, lengths + 1, *args, **settings)

    patch.setattr(advantage, "shape_rewards", late)


def pad_is_eos_and_off_by_one(patch):
    """Lengths are counted as the tokens that are not the padding token, which is the end of sequence as well."""
    pack = batch.pack

    def counted(*args):
        episodes = pack(*args)
        return dataclasses.replace(episodes, lengths=np.maximum((episodes.responses != 0).sum(axis=1), 1))

    patch.setattr(batch, "pack", counted)


def mask_shifted_by_one(patch):
    mask = property(lambda self: np.arange(self.old_values.shape[1]) + 1 < self.lengths[:, None] + 2)
    patch.setattr(batch.Episodes, "mask", mask)


def rows_swapped_between_prompt_and_response(patch):
    pack = batch.pack
    patch.setattr(batch, "pack", lambda prompts, completions, *a: pack(prompts, completions[::-1], *a))


def int_typed_rewards(patch):
    compute = reward.compute

    def truncated(*args):
        rewards = compute(*args)
        return dataclasses.replace(rewards, total=rewards.total.astype(np.int32))

    patch.setattr(reward, "compute", truncated)


def int_typed_penalty(patch):
    patch.setattr(
        reward, "penalize_unstopped", lambda scores, stopped, penalty=-1.0: np.where(stopped, scores, np.int32(penalty))
    )


def metric_against_the_reward(patch):
    of_reading = telemetry.of_reading

    def wrong(reading, rewards):
        return of_reading(reading, rewards) | {"reader/truth_prob": float(np.mean(rewards.total))}

    patch.setattr(telemetry, "of_reading", wrong)


def brier_against_the_confidence(patch):
    patch.setattr(metrics, "brier", lambda confidences, correct: float(np.mean((confidences - confidences) ** 2)))


LITERAL = {
    masked_value_bootstrapping: "padding does not reach advantages",
    terminal_reward_on_a_masked_token: "the reward is at the last real token",
    pad_is_eos_and_off_by_one: "prompt, response and mask of a row",
    mask_shifted_by_one: "prompt, response and mask of a row",
    rows_swapped_between_prompt_and_response: "prompt, response and mask of a row",
    int_typed_rewards: "the reward is proper",
    int_typed_penalty: "the reward is proper",
    metric_against_the_reward: "what is reported of the reader",
    brier_against_the_confidence: "metrics",
}


@pytest.mark.parametrize("fault", LITERAL)
def test_a_fault_of_arithmetic_is_found(fault, monkeypatch):
    with monkeypatch.context() as patch:
        fault(patch)
        failures = literal()
    assert LITERAL[fault] in failures


@pytest.mark.parametrize("name", ["decision_based", "factuality"])
def test_healthy_arithmetic_passes_with_either_reward(name):
    assert literal(reward.RewardSettings(name=name, offset=0.0 if name == "factuality" else 5.0)) == set()


def test_a_begin_token_that_comes_twice_is_found(monkeypatch):
    tokenizer = load_tokenizer(base.LLAMA)

    assert check_tokens(tokenizer).verdict == "ok"
    encode, begin = Tokenizer.encode_prompt, tokenizer.hf.bos_token_id
    assert begin is not None
    monkeypatch.setattr(Tokenizer, "encode_prompt", lambda self, *args: [begin, *encode(self, *args)])
    assert check_tokens(tokenizer).verdict == "FAILED"


def check_tokens(tokenizer):
    """Returns the result of `verify` for a tokenizer, with the sampling of production."""
    sampling = writing.Decoding(8, 0.7, 0, 1).sampling(tokenizer)
    return verify.Result.of("tokens", lambda: verify.special_tokens(tokenizer, TEXTS[0], sampling))


@pytest.mark.parametrize("folder", [base.LLAMA, base.GPT_NEOX])
def test_a_tokenizer_without_its_begin_or_stop_tokens_is_found(folder):
    tokenizer = load_tokenizer(folder)
    assert check_tokens(tokenizer).verdict == "ok"
    assert "stop tokens [" in check_tokens(dataclasses.replace(tokenizer, stop_ids=())).details
    begins = dataclasses.replace(tokenizer, prefix=() if tokenizer.prefix else (tokenizer.hf.bos_token_id,))
    assert "the tokenizer makes it" in check_tokens(begins).details


def test_a_stop_token_of_generation_config_json_alone_is_expected_to_stop(tmp_path):
    shutil.copytree(base.LLAMA, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    tokenizer = load_tokenizer(tmp_path)
    assert check_tokens(tokenizer).verdict == "ok"
    without = dataclasses.replace(tokenizer, stop_ids=tuple(i for i in tokenizer.stop_ids if i != 7))
    assert "stop tokens [7] do not stop" in check_tokens(without).details


def test_nan_is_the_largest_number_and_fails_every_check_of_numbers(monkeypatch):
    assert np.isnan(verify.largest([0.0, np.nan, 1.0]))
    assert verify.largest([[1.0, 3.0], [], 2]) == 3
    for metric in ("brier", "ece"):
        with monkeypatch.context() as patch:
            patch.setattr(metrics, metric, lambda *_: float("nan"))
            assert literal() == {"metrics"}
    with monkeypatch.context() as patch:
        patch.setattr(telemetry, "of_reading", lambda *_: defaultdict(lambda: float("nan")))
        assert literal() == {"what is reported of the reader"}
    with monkeypatch.context() as patch:
        patch.setattr(reward, "penalize_unstopped", lambda scores, *_: scores * np.float32("nan"))
        assert "the reward is proper" in literal()


def test_the_table_and_the_error_name_what_failed():
    def broken():
        raise ZeroDivisionError("by zero")

    def skipped():
        raise verify.Skipped("no torch")

    results = [
        verify.Result.of("one", lambda: verify.Measured(0.5, 1.0, " nats")),
        verify.Result.of("three", lambda: verify.Measured(np.nan, 1.0)),
        verify.Result.of("four", broken),
        verify.Result.of("five", skipped),
    ]
    assert verify.render(results).splitlines() == [
        "ok       one    0.5 nats (limit 1)",
        "FAILED   three  nan (limit 1)",
        "FAILED   four   ZeroDivisionError: by zero",
        "skipped  five   no torch",
    ]
    with pytest.raises(ValueError, match=r"three: nan \(limit 1\); four: ZeroDivisionError: by zero\. --config"):
        verify.require(results)
