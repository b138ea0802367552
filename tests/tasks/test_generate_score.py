"""The tasks for users: decode and score JSONL, keep what is written when cut off, and convert checkpoints."""

import importlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate as engine
from lc_jax.preflight import Problems
from tests.tasks.test_pipeline import rows, run
from tests.test_configs import config_of

MODEL = str(Path(__file__).resolve().parents[2] / "lc_jax" / "miniature" / "checkpoints" / "llama")
PROMPTS = ["Write about the clock of the town of Gent.", "Write about Chad.", "Survey the writers on", "Hello"]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "mark": i}) + "\n" for i, p in enumerate(PROMPTS)))
    return path


def generate(prompts, output, **overrides):
    settings = {"model": MODEL, "prompts": str(prompts), "output": str(output), "max_new_tokens": 16, "batch_size": 2}
    run("generate", **(settings | {"num_samples": 2} | overrides))
    return rows(output)


def test_rows_keep_their_order_and_fields(prompts, tmp_path):
    out = generate(prompts, tmp_path / "out.jsonl")
    assert [(row["mark"], row["sample"]) for row in out] == [(i, s) for i in range(4) for s in range(2)]
    assert all(len(row["tokens"]) == len(row["logprobs"]) for row in out)


def test_a_cut_off_run_goes_on(prompts, tmp_path, monkeypatch):
    whole = generate(prompts, tmp_path / "whole.jsonl")
    requests = []
    original = engine._generate

    def dying(*arguments):
        requests.append(1)
        if len(requests) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(engine, "_generate", dying)
    output = tmp_path / "cut.jsonl"
    with pytest.raises(KeyboardInterrupt):
        generate(prompts, output)
    old_rows = rows(output)
    assert len(old_rows) == 2  # of the first batch; the second was under way
    output.write_text(output.read_text() + '{"row": 0, "torn')
    assert [r["tokens"] for r in generate(prompts, output)] == [r["tokens"] for r in whole]
    assert len(requests) == 6  # one batch was there already


def test_a_file_of_other_settings_is_refused_and_kept(prompts, tmp_path):
    output = tmp_path / "out.jsonl"
    generate(prompts, output)
    before = output.read_bytes()
    with pytest.raises(ValueError, match=r"temperature was 0\.3, is 0\.9"):
        generate(prompts, output, temperature=0.9)
    prompts.write_text(prompts.read_text().replace("Chad", "Niger"))
    with pytest.raises(ValueError, match="prompts was"):
        generate(prompts, output)
    assert output.read_bytes() == before


def test_an_input_is_read_whole_or_not_at_all(prompts, tmp_path):
    prompts.write_text(prompts.read_text() + '{"prompt": "torn')
    with pytest.raises(ValueError, match=r"prompts\.jsonl, line 5: not JSON"):
        generate(prompts, tmp_path / "out.jsonl")
    prompts.write_text('"a string"\n')
    with pytest.raises(ValueError, match="line 1: a row is a JSON object"):
        generate(prompts, tmp_path / "out.jsonl")


def test_a_language_model_gives_no_rewards(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "It lies in Chad."}\n')
    with pytest.raises(ValueError, match=r"is a language model; --config\.kind=reward takes a reward model"):
        run("score", model=MODEL, input=str(source), output=str(tmp_path / "o.jsonl"), kind="reward")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    """A folder whose config.json says that it is a reward model."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    shutil.copytree(MODEL, folder)
    config = json.loads((folder / "config.json").read_text())
    wrapped = {"model_type": "reward_model", "backbone_config": config}
    (folder / "config.json").write_text(json.dumps(wrapped))
    return folder


def problems(name, **changes):
    """Returns the messages of a task's check, without devices."""
    config = config_of(name)
    config.update(changes)
    with pytest.raises(Problems) as caught:
        importlib.import_module(f"lc_jax.tasks.{name}").check(config)
    return caught.value.messages


def test_the_kind_of_the_model_and_every_row_are_checked_before_anything_is_loaded(tmp_path, prompts, reward_model):
    prompts.write_text('{"prompt": "Hello"}\n{"prompt_tokens": [3, 90000]}\n')
    sampling, row = problems("generate", model=MODEL, prompts=str(prompts), temperature=-1.0)
    assert sampling == "--config.temperature=-1.0: give a number of at least 0."
    assert row.startswith(f"{prompts}, line 2: token id 90000 has no row in the embedding of {MODEL}")
    (kind,) = problems("generate", model=str(reward_model), prompts=str(prompts))
    assert kind == f"--config.model={reward_model} is a reward model; give a language model."
    prompts.write_text('{"text": "Hello"}\n')
    (kind,) = problems("score", model=str(reward_model), input=str(prompts))
    assert kind == f"--config.model={reward_model} is a reward model; --config.kind=logprobs takes a language model."
    (kind,) = problems("score", model=MODEL, input=str(prompts), kind="reward")
    assert kind == f"--config.model={MODEL} is a language model; --config.kind=reward takes a reward model."
    prompts.write_text('{"prompt_tokens": [3], "completion_tokens": [90000]}\n')
    (row,) = problems("score", model=MODEL, input=str(prompts))
    assert row.startswith(f"{prompts}, line 1: token id 90000 has no row")


def test_all_problems_of_a_conversion_are_told_together(tmp_path):
    settings = {"source": MODEL, "destination": str(tmp_path), "format": "sequence_classification"}
    assert problems("convert", **settings, dtype="float8", shard_gigabytes=0.0, make_difference=True) == [
        "--config.dtype=float8: give one of '', float32, bfloat16, float16.",
        "--config.shard_gigabytes=0.0: give a number above 0.",
        "--config.make_difference needs --config.base: the checkpoint that is subtracted.",
        f"{tmp_path} exists already; give another --config.destination or remove it.",
        f"--config.source={MODEL} is a language model; --config.format=sequence_classification takes a reward model.",
    ]
    assert problems("convert", source="/no/a", base="/no/b", destination=str(tmp_path / "new")) == [
        "No checkpoint folder /no/a; run the stage that writes it, or correct the path.",
        "No checkpoint folder /no/b; run the stage that writes it, or correct the path.",
    ]


def score(tmp_path, name, scored):
    source, output = tmp_path / f"{name}.jsonl", tmp_path / f"{name}_scored.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in scored))
    run("score", model=MODEL, input=str(source), output=str(output), batch_size=2)
    return rows(output)


def test_scores_agree_with_generation(prompts, tmp_path):
    tokenizer = load_tokenizer(MODEL)
    outputs = generate(prompts, tmp_path / "out.jsonl", temperature=1.0, num_samples=1)
    sampled = [
        {"prompt_tokens": tokenizer.encode_prompt(row["prompt"]), "completion_tokens": row["tokens"]} for row in outputs
    ]
    for row, expected in zip(score(tmp_path, "sampled", sampled), outputs, strict=True):
        np.testing.assert_allclose(row["logprobs"], expected["logprobs"], atol=1e-3)
        assert len(row["logprobs"]) == len(row["entropies"]) == len(row["completion_tokens"])

    # Text is tokenised again, into other tokens than were sampled; its scores are those of the new tokens.
    texts = [{"prompt": row["prompt"], "completion": row["completion"]} for row in outputs]
    wholes = [tokenizer.encode_prompt(row["prompt"] + row["completion"]) for row in outputs]
    starts = [len(row["prompt_tokens"]) for row in sampled]
    cut = [{"prompt_tokens": w[:n], "completion_tokens": w[n:]} for w, n in zip(wholes, starts, strict=True)]
    for text, tokens in zip(score(tmp_path, "texts", texts), score(tmp_path, "cut", cut), strict=True):
        assert len(text["logprobs"]) == len(tokens["completion_tokens"]) > 0
        np.testing.assert_allclose(text["logprobs"], tokens["logprobs"], atol=1e-3)


def test_conversion_keeps_every_byte(tmp_path):
    run("convert", source=MODEL, destination=str(tmp_path / "hf"), format="hf")
    source = Path(MODEL) / "model.safetensors"
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == source.read_bytes()
    with pytest.raises(Problems, match="exists already"):
        run("convert", source=MODEL, destination=str(tmp_path / "hf"), format="hf")
    assert jax.device_count() >= 1


@pytest.mark.slow
def test_same_greedy_text_as_transformers(prompts, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = generate(prompts, tmp_path / "greedy.jsonl", temperature=0.0, num_samples=1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)
    for row in ours:
        ids = tokenizer(row["prompt"], return_tensors="pt")
        theirs = model.generate(
            **{k: ids[k] for k in ("input_ids", "attention_mask")}, max_new_tokens=16, do_sample=False
        )
        text = tokenizer.decode(theirs[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text == row["completion"]


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("generate", "batch_size", 0),
        ("generate", "num_samples", 0),
        ("generate", "top_p", 1.5),
        ("generate", "model", "missing"),
        ("score", "batch_size", -1),
        ("score", "temperature", 0.0),
        ("score", "kind", "loss"),
    ],
)
def test_numbers_and_folders_are_checked_before_devices_are_made(name, setting, value):
    config = config_of(name, "mini")
    config.model = MODEL
    config[setting] = value
    with pytest.raises(ValueError, match=f"--config.{setting}"):
        importlib.import_module(f"lc_jax.tasks.{name}").check(config)
