"""Two processes on loopback, as two hosts: one mesh, one training run, folders that are whole."""

import json
import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.models import hf, registry


def together(*command, code=0, **variables):
    """Runs `python COMMAND` twice, as processes 0 and 1 of one run; both must end with `code`."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    variables_ = os.environ | variables | {"LC_COORDINATOR": address, "LC_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
    variables_ |= {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env=variables_ | {"LC_PROCESS_ID": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        output, _ = process.communicate(timeout=500)
        assert process.returncode == code, output


@pytest.mark.slow
def test_folders_written_by_two_hosts(tmp_path):
    program = """
import sys, jax
from lc_jax import parallel
from lc_jax.models import hf, registry
parallel.start()
mesh = parallel.make_mesh(fsdp=2)
with jax.set_mesh(mesh):
    model = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), mesh)
    hf.save(sys.argv[1] + "/hf", model)
"""
    together("-c", program, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]
    mesh = parallel.make_mesh()
    expected = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), mesh).params
    params = hf.load(tmp_path / "hf", mesh).params
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(jnp.asarray(a), jnp.asarray(b), rtol=1e-6)


def supervised(folder, *flags):
    """The command of a run of eight steps."""
    lines = []
    for number in range(20):
        prompt = f"Write about the country of city number {number}."
        row = {"question_id": f"q{number}", "paragraph_generation_prompt": prompt, "claude_summary": f"It is {number}."}
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return [
        "lc_jax.main", "--config=configs/sft_lc.py:mini", "--config.data.eval_size=4",
        f"--config.data.rows.source={folder}/rows.jsonl", "--config.data.rows.questions=",
        "--config.fit.num_epochs=2", "--config.fit.batch_size=4", "--config.fit.microbatch_size=4", *flags,
    ]  # fmt: skip


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.mark.slow
def test_two_hosts_train_as_one_does(tmp_path):
    together("-m", *supervised(tmp_path, f"--config.output={tmp_path}/two"))
    alone = [sys.executable, "-m", *supervised(tmp_path, f"--config.output={tmp_path}/one")]
    subprocess.run(alone, check=True, env=os.environ | {"XLA_FLAGS": ""})
    assert len(losses(tmp_path / "one")) == 8
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    weights = [jax.tree.leaves(hf.load(tmp_path / n / "model", parallel.make_mesh()).params) for n in ("one", "two")]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(jnp.asarray(a), jnp.asarray(b), atol=2e-5)


@pytest.mark.slow
def test_one_host_is_told_to_stop_and_both_do_after_the_same_step(tmp_path):
    program = """
import os, runpy, signal, sys
from lc_jax.training.checkpoint import Checkpoints
save = Checkpoints.save
def told(self, step, state, **options):
    if step == 3 and os.environ["LC_PROCESS_ID"] == "1":
        signal.raise_signal(signal.SIGTERM)
    save(self, step, state, **options)
Checkpoints.save = told
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
    command = supervised(tmp_path, f"--config.output={tmp_path}/cut")
    together("-c", program, *command, code=75)
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]
    together("-m", *command)
    assert len(losses(tmp_path / "cut")) == 8
    assert (tmp_path / "cut" / "model" / "model.safetensors").exists()
