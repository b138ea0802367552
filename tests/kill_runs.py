"""Kills small training runs with SIGKILL at random points, resumes them, and compares them with uninterrupted ones.

    python -m tests.kill_runs --points 60 [--seed 0] [--folder FOLDER]

SFT, a reward model and PPO, each on a model of one layer, are run by `python -m lc_jax.main`. A run is killed again and
again, at a random step and a random moment of it, until it is done; then another begins, until there were enough kills.
The final weights must be those of a run that nobody killed, to the last bit, and each log must have every step once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.miniature import corpus
from lc_jax.models import hf, registry

CHECKPOINT = Path(corpus.__file__).parent / "checkpoints" / "llama"
NUM_STEPS = {"sft": 24, "reward_model": 24, "ppo": 12}
SHAPE = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
SHAPE |= {"num_attention_heads": 2, "max_position_embeddings": 256}
LOGS = {"sft": ["metrics.jsonl"], "reward_model": ["metrics.jsonl"], "ppo": ["metrics.jsonl", "rollouts.jsonl"]}
EPISODES = 8


def make_inputs(folder: Path) -> None:
    """Writes the models and rows that the runs start from."""
    tokenizer = load_tokenizer(CHECKPOINT)
    shape = SHAPE | {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": tokenizer.eos_id}
    config = registry.config_from_hf(shape)
    mesh = parallel.make_mesh()
    for kind in ("causal", "scalar"):
        hf.save(folder / kind, registry.initialize(config, jax.random.key(0), mesh, kind), tokenizer=tokenizer)
    rows = []
    for number in range(32):
        rows.append(
            {
                "question_id": f"q{number}",
                "paragraph_generation_prompt": f"Write about the country of city number {number}.",
                "question": f"In which country is city number {number}?",
                "answer": f"country {number}",
                "claude_summary": f"It is in country {number}, with 80% confidence.",
                "lc_sft_generated_paragraph": f"It is in country {number}, perhaps.",
                "lc_sft_ground_truth_and_extracted_answers": [f"country {number}", "another"],
                "lc_sft_forecasted_probs": [0.7, 0.2],
            }
        )
    for name, chosen in (("rows", rows[:24]), ("validation", rows[24:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))


def flags(task: str, folder: Path, output: Path) -> list[str]:
    """The command line of a run."""
    rows, steps = folder / "rows.jsonl", NUM_STEPS[task]
    values: dict[str, object] = {"output": output}
    if task == "ppo":
        for part, file in (("questions", rows), ("validation", folder / "validation.jsonl")):
            values |= {f"{part}.source": file, f"{part}.split": "", f"{part}.answers": ""}
        values |= {
            "policy": folder / "causal",
            "reader.forecaster": folder / "scalar",
            "reader.extractor": folder / "causal",
        }
        values |= {"reader.batch_size": 8, "reader.max_new_tokens": 4, "ppo.response_length": 8, "ppo.num_steps": steps}
        values |= {"ppo.rollout_batch_size": EPISODES, "ppo.num_samples": 2, "ppo.minibatch_size": 4}
        values |= {"ppo.microbatch_size": 4, "ppo.decode_batch_size": 8, "ppo.save_every": 2}
        values |= {"ppo.num_validation": 4, "ppo.eval_every": 4}
        config = "ppo"
    else:
        # 24 questions without 8 held out: 16 examples of SFT, 32 of the reward model.
        batch = 4 if task == "sft" else 8
        values |= {"model": folder / "causal", "data.rows.source": rows, "data.rows.questions": "", "data.eval_size": 8}
        values |= {"fit.batch_size": batch, "fit.microbatch_size": batch, "fit.num_epochs": steps // 4}
        values |= {"fit.save_every": 2, "fit.eval_every": 8}
        config = "sft_lc" if task == "sft" else "forecast_probs"
    return [f"--config=configs/{config}.py:mini", *(f"--config.{name}={value}" for name, value in values.items())]


def start(task: str, folder: Path, output: Path, environment: Mapping[str, str]) -> subprocess.Popen:
    """A process of the run; what it prints is added to a file next to the output."""
    with output.with_suffix(".log").open("ab") as log:
        command = [sys.executable, "-m", "lc_jax.main", *flags(task, folder, output)]
        return subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log)


def num_logged(output: Path) -> int:
    """Lines of the run's log so far."""
    with contextlib.suppress(FileNotFoundError):
        return (output / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def run_with_kills(
    task: str, folder: Path, output: Path, environment: Mapping[str, str], kills: int, rng: random.Random
) -> int:
    """Runs until done, killed at most `kills` times; the number of kills."""
    done = 0
    while True:
        process = start(task, folder, output, environment)
        steps, moment = rng.randint(1, 5), rng.uniform(0, 0.4)
        target = 0
        while process.poll() is None and done < kills:
            # A new process first drops the rows after its checkpoint: count from the fewest that were seen.
            logged = num_logged(output)
            target = min(target or logged + steps, logged + steps)
            if logged >= target:
                time.sleep(moment)
                process.kill()
                break
            time.sleep(0.01)
        code = process.wait()
        if code == 0:
            return done
        if code != -9:
            raise SystemExit(f"{task}: exit code {code}; see {output.with_suffix('.log')}")
        done += 1


def check(task: str, whole: Path, output: Path) -> None:
    """Compares a killed run with the uninterrupted one."""
    one, other = (path / "model" / "model.safetensors" for path in (whole, output))
    if one.read_bytes() != other.read_bytes():
        raise SystemExit(f"{task}: the weights of {output} differ from those of {whole}")
    for name in LOGS[task]:
        steps = [json.loads(line)["step"] for line in (output / name).read_text().splitlines()]
        each = EPISODES if name == "rollouts.jsonl" else 1
        if steps != [step for step in range(NUM_STEPS[task]) for _ in range(each)]:
            raise SystemExit(f"{task}: {output / name} holds the steps {steps}")


def kill_runs(points: int, seed: int, folder: Path, tasks: Sequence[str] = tuple(NUM_STEPS)) -> dict[str, int]:
    """Kills by task; raises SystemExit at the first difference."""
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    rng, counts = random.Random(seed), dict.fromkeys(tasks, 0)
    make_inputs(folder)
    for number, task in enumerate(tasks):
        whole = folder / f"{task}-whole"
        run_with_kills(task, folder, whole, environment, 0, rng)
        target = points // len(tasks) + (number < points % len(tasks))
        attempt = 0
        while counts[task] < target:
            output = folder / f"{task}-{attempt}"
            counts[task] += run_with_kills(task, folder, output, environment, target - counts[task], rng)
            check(task, whole, output)
            attempt += 1
            print(f"{task}: {counts[task]} kills in {attempt} runs", flush=True)
    return counts


def main() -> None:
    """Prints the number of kills at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        counts = kill_runs(arguments.points, arguments.seed, folder)
    by_task = ", ".join(f"{count} {task}" for task, count in counts.items())
    print(f"{sum(counts.values())} kills: {by_task}; all weights bitwise equal")


if __name__ == "__main__":
    main()
