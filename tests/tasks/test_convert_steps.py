"""A checkpoint of a training run becomes the Hugging Face folder that the run itself writes at its end."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from configs import base
from lc_jax import main
from tests.tasks.test_own_data import PLAIN, write


def run(config, **settings):
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in settings.items()]
    main.run_task(["main", f"--config=configs/{config}.py:mini", "--config.compilation_cache=", *flags])


def assert_equal_folders(actual, expected):
    names = {path.name for path in expected.iterdir()}
    assert {path.name for path in actual.iterdir()} - {"run.json"} == names
    assert [name for name in sorted(names) if (actual / name).read_bytes() != (expected / name).read_bytes()] == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Steps 2 and 3 of an SFT on prompts of the training template, exported in bfloat16."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [
        {"question_id": i, "paragraph_generation_prompt": f"Which city {i}?", "claude_summary": f"Paris {i}."}
        for i in range(12)
    ]
    data = {"data__rows__source": write(folder / "mine.jsonl", rows), "data__recipe": "sft_lc"}
    run("sft", model=PLAIN, output=folder / "run", export_dtype="bfloat16", fit__save_every=1, **data)
    return folder / "run"


def test_the_last_step_is_the_model_of_the_run_byte_for_byte(trained, tmp_path):
    run("convert", source=trained / "checkpoints" / "3", destination=tmp_path / "out")
    assert_equal_folders(tmp_path / "out", trained / "model")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "chat_template" in "".join(path.name for path in (tmp_path / "out").iterdir())


def test_an_earlier_step_has_other_weights_and_a_dtype_that_is_set(trained, tmp_path):
    run("convert", source=trained / "checkpoints" / "2", destination=tmp_path / "out", dtype="float32")
    actual, last = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", trained / "model"))
    name = "model.layers.0.mlp.down_proj.weight"
    assert actual[name].dtype == np.float32
    assert (actual[name].astype(last[name].dtype) != last[name]).any()


def test_what_is_no_step_of_a_run_is_refused_with_the_steps_there_are(trained, tmp_path):
    def refusal(source):
        with pytest.raises((ValueError, OSError)) as error:
            run("convert", source=source, destination=tmp_path / "out")
        (line,), code = main.explain(error.value)
        assert code == 1
        return line

    assert refusal(trained / "checkpoints" / "7").endswith("checkpoints/7: its steps are 2, 3.")
    assert f"give {trained}/model, or {trained}/checkpoints/STEP of 2, 3." in refusal(trained)
    (tmp_path / "checkpoints" / "7" / "default").mkdir(parents=True)
    assert "7 is no checkpoint of a training run" in refusal(tmp_path / "checkpoints" / "7")
    assert "has no steps" in refusal(tmp_path / "other" / "checkpoints" / "7")
    record = json.loads((trained / "run.json").read_text())
    record["runs"][-1]["config"] |= {"model": "/no/base"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert "started from /no/base, whose config and tokenizer are needed" in refusal(tmp_path / "checkpoints" / "7")
    record["runs"][-1]["config"] |= {"task": "pretrain"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert "run.json is of pretrain: the models of sft, reward_model, ppo" in refusal(tmp_path / "checkpoints" / "7")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_damaged_step_is_refused_in_one_line(trained, tmp_path):
    """In a process of its own: Orbax's threads leave exceptions that surface in whatever test runs next."""
    run_copy = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run_copy / "checkpoints" / "metadata")
    (run_copy / "checkpoints" / "2" / "default" / "manifest.ocdbt").unlink()
    flags = [f"--config.source={run_copy / 'checkpoints' / '2'}", f"--config.destination={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "lc_jax.main", "--config=configs/convert.py", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=base.__file__.rsplit("/", 2)[0])
    assert done.returncode == 1
    assert "2 is damaged; give another step of the run" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_step_of_another_model_is_refused_in_one_line(trained, tmp_path):
    run_copy = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(run_copy / "checkpoints" / "metadata")
    record = json.loads((trained / "run.json").read_text())
    record["runs"][-1]["config"] |= {"model": base.LLAMA}
    (run_copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"embedding has shape \(401, 32\) there, \(2048, 128\) in the model"):
        run("convert", source=run_copy / "checkpoints" / "3", destination=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_command_that_the_run_refused_does_not_change_whose_model_it_is(trained, tmp_path):
    record = json.loads((trained / "run.json").read_text())
    other = {**record["runs"][-1], "config": record["runs"][-1]["config"] | {"model": base.GPT_NEOX}}
    (trained / "run.json").write_text(json.dumps({"runs": [*record["runs"], other]}))
    run("convert", source=trained / "checkpoints" / "3", destination=tmp_path / "out")
    assert_equal_folders(tmp_path / "out", trained / "model")


@pytest.mark.slow
def test_a_step_of_a_reward_model(tmp_path):
    rows = write(tmp_path / "mine.jsonl", [{"prompt": "Is it so? ", "answer": "Yes", "label": 0.75}] * 12)
    run("reward_model", model=base.GPT_NEOX, output=tmp_path / "run", data__rows__source=rows)
    step = max((tmp_path / "run" / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    run("convert", source=step, destination=tmp_path / "out")
    assert_equal_folders(tmp_path / "out", tmp_path / "run" / "model")
    run("convert", source=step, destination=tmp_path / "labels", format="sequence_classification")
    run("convert", source=tmp_path / "out", destination=tmp_path / "again", format="sequence_classification")
    files = ("config.json", "model.safetensors")
    assert all((tmp_path / "labels" / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files)


@pytest.mark.slow
def test_a_step_of_ppo_is_its_policy(tmp_path):
    sizes = {"num_steps": 2, "rollout_batch_size": 16, "num_samples": 4, "minibatch_size": 16, "microbatch_size": 8}
    sizes |= {"decode_batch_size": 16, "num_validation": 0, "save_every": 1, "baseline": "critic"}
    models = {"policy": base.LLAMA, "critic": base.LLAMA, "reader__forecaster": base.LLAMA}
    settings = models | {"reader__extractor": base.GPT_NEOX, "reader__batch_size": 16}
    run("ppo", output=tmp_path / "run", **settings, **{f"ppo__{name}": value for name, value in sizes.items()})
    run("convert", source=tmp_path / "run/checkpoints/2", destination=tmp_path / "out")
    assert_equal_folders(tmp_path / "out", tmp_path / "run" / "model")
