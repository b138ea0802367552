"""PPO as a run: SIGTERM saves it, and it resumes bit for bit; padding and alarms."""

import importlib
import json
import signal

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import base
from lc_jax import parallel
from lc_jax.inference.generate import Completion
from lc_jax.rl import batch, telemetry
from tests.test_configs import config_of

SIZES = {"num_steps": 3, "rollout_batch_size": 16, "num_samples": 4, "minibatch_size": 16, "microbatch_size": 8}
SIZES |= {"decode_batch_size": 16, "response_length": 32, "num_validation": 4, "save_every": 1}
SIZES |= {"num_candidates": 1, "first_candidate": 3}


def run(output, **ppo):
    """Three small steps of the miniature's LC RL, from its base models: the forecaster's head is still zero."""
    config = config_of("ppo", "mini")
    config.policy = config.reader.forecaster = base.LLAMA
    config.reader.extractor, config.reader.batch_size = base.GPT_NEOX, 16
    config.ppo.update(SIZES | ppo)
    config.output, config.export_every = str(output), 2
    mesh = parallel.make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        importlib.import_module("lc_jax.tasks.ppo").run(config, mesh)


def rows(path, but=()):
    return [{k: v for k, v in json.loads(line).items() if k not in but} for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(tmp_path, sigterm_after):
    handler = signal.getsignal(signal.SIGTERM)
    run(tmp_path / "whole", frozen_on_host=True)  # where they wait changes nothing
    with sigterm_after(1):
        run(tmp_path / "cut")
    assert not (tmp_path / "cut" / "model").exists()
    run(tmp_path / "cut")
    assert signal.getsignal(signal.SIGTERM) is handler
    whole, cut = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    arrays = load_file(tmp_path / "cut" / "candidates" / "step-000003" / "model" / "model.safetensors")
    np.testing.assert_array_equal(arrays["model.norm.weight"], cut["model.norm.weight"])
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name])
    assert [path.name for path in (tmp_path / "cut" / "steps").iterdir()] == ["000002"]
    middle = load_file(tmp_path / "whole" / "steps" / "000002" / "model.safetensors")
    assert any(not np.array_equal(middle[name], whole[name]) for name in whole)
    for log in ("rollouts.jsonl", "validation.jsonl"):
        assert rows(tmp_path / "whole" / log) == rows(tmp_path / "cut" / log)
    validation = rows(tmp_path / "whole" / "validation.jsonl")
    each = [(row["step"], row["question_id"]) for row in validation]
    assert len(set(each)) == len(each) == SIZES["num_validation"] * len({step for step, _ in each})
    assert {"paragraph", "extracted", "answer_prob", "reward"} <= validation[0].keys()
    one, other = (rows(tmp_path / name / "metrics.jsonl") for name in ("whole", "cut"))
    assert [row["reward"] for row in one] == [row["reward"] for row in other]
    assert [row["kl"] for row in one] == [row["kl"] for row in other]
    first = load_file(f"{base.LLAMA}/model.safetensors")
    assert any(not np.array_equal(first[name], whole[name]) for name in first)  # it did learn something


def test_episodes_are_as_wide_as_the_longest_response():
    completions = [Completion(list(range(5, 5 + n)), [0.0] * n, True) for n in (3, 17, 0)]
    prompts = [[1, 2], [1, 2, 3], [1]]
    short, full = batch.pack(prompts, completions), batch.pack(prompts, completions, 64)
    assert (short.responses.shape, full.responses.shape) == ((3, 20), (3, 64))
    assert short.lengths.tolist() == full.lengths.tolist() == [3, 17, 1]
    np.testing.assert_array_equal(short.responses, full.responses[:, :20])
    np.testing.assert_array_equal(short.tokens, full.tokens[:, : short.tokens.shape[1]])


FINE = {"kl": 1.0, "rollout/entropy": 0.5, "rollout/stop_rate": 1.0, "reader/confidence_histogram": [0.5, 0.5]}
FINE |= {"reader/no_answer_rate": 0.89}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("kl", 51.0, "KL 51"),
        ("rollout/entropy", 0.001, "entropy 0.001"),
        ("rollout/stop_rate", 0.25, "25% of responses end"),
        ("reader/confidence_histogram", [0.0, 0.96], "96% of paragraphs"),
        ("reader/no_answer_rate", 0.9, "found no answer in 90% of paragraphs"),
    ],
)
def test_alarms_name_what_is_beyond_its_limit(name, value, words):
    alarms = telemetry.Alarms(**config_of("ppo").alarms)
    assert alarms.of(FINE) == []
    (message,) = alarms.of(FINE | {name: value})
    assert words in message
