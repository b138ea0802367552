"""The paper's own script in full form over a hub and vendors on loopback: only sizes are small.

Names, columns, wordings, precision, critic and published arithmetic are those of a real run; models, data and judge are
tiny. What stops here would stop on the real hub.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lc_jax.evaluation import published
from lc_jax.llm import simulated
from lc_jax.miniature import world as miniature
from lc_jax.prompts import NO_ANSWER, claims
from lc_jax.types import Reply
from tests.data.test_documents import make_store
from tests.hub import data, models
from tests.hub.server import HubServer
from tests.llm.fake_server import KEY, FakeServer

ROOT = Path(__file__).resolve().parents[1]
MAIN = (sys.executable, "-m", "lc_jax.main")
TRAINING = "--config.fit.num_epochs=1 --config.fit.batch_size=16 --config.fit.microbatch_size=16"
SFT = ("sft_lc", "sft_factuality", "sft_claude_distill", "extract_answers", "forecast_probs", "factuality_reward")
PPO = (
    "--config.ppo.num_steps=3 --config.ppo.rollout_batch_size=8 --config.ppo.minibatch_size=8 "
    "--config.ppo.microbatch_size=4 --config.ppo.decode_batch_size=8 "
    "--config.ppo.eval_every=1 --config.ppo.save_every=1 --config.ppo.first_candidate=1 --config.ppo.num_candidates=2 "
    "--config.reader.batch_size=8"
)
VENDOR = "openai/gpt-4.1"
JUDGE = "openai/gpt-4.1-mini"
EVALUATION = "--config.batch_size=8"
METHODS = (
    "LC RL", "LC SFT", "Factuality RL", "Factuality SFT", "Claude Distill", "Llama 2 7B 8-shot",
    "Llama 2 7B summary 8-shot", "Llama 2 Chat 0-shot", "Direct summary evaluation", "gpt-4.1 0-shot", "gpt-4.1 8-shot",
    "gpt-4.1 asked for uncertainty", "gpt-4.1 summary 8-shot",
)  # fmt: skip
DATA = ("TriviaQA", "SciQ")
ON_BIOGRAPHIES = {row.method.replace("GPT-4", "gpt-4.1") for row in published.by_method("biographies").values()}
PEOPLE = miniature.build().subjects[:5]


def judge_of(world):
    """The simulated annotator; what it cannot read in the noise of untrained models gets a reply by chance."""
    truths = {q.question: q.answer for questions in (*world.splits.values(), *world.tests.values()) for q in questions}

    def answer(request):
        reply, chance = simulated.Simulated().answer(request), zlib.crc32(request.prompt.encode())
        if claims.PROMPT.match(request.prompt) and reply.text == "[]":
            statement = f"It lies in {PEOPLE[chance % len(PEOPLE)].facts[0].truth} (80%)."
            return Reply("ok", json.dumps([[statement, "Objective"]]))
        if reply.status != "ok" or not reply.text:  # it writes no paragraphs, and merges none without facts
            return Reply("ok", "It lies in France (80%).")
        question = re.findall(r"^Question: '?(.*?)'?$", request.prompt, re.MULTILINE)[-1:]
        if reply.text.endswith(NO_ANSWER):
            truth = truths[question[0]] if chance % 2 else "Nowhere"
            return Reply("ok", reply.text.removesuffix(NO_ANSWER) + f"{truth}; Somewhere")
        if re.search(r"\b0$", reply.text):  # a forecast
            return Reply("ok", f"{reply.text[:-1]}{chance % 11 / 10}")
        return reply

    return answer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The environment of a user whose hub and vendors are on loopback; the folder of the run."""
    folder = tmp_path_factory.mktemp("rehearsal")
    world = data.write_data(folder / "hub", folder)
    texts = list(world.texts())
    templates = [file.read_text() for file in (ROOT / "lc_jax/prompts/templates/full").iterdir()]
    models.write_models(folder / "hub", [*texts, *templates * 20])
    environment = folder / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (environment / "bin" / "python").chmod(0o755)
    command = 'echo "$(pwd)  $(cat pyproject.toml requirements.txt | cksum)"'
    key = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True)
    (environment / "installed-base").write_bytes(key.stdout)  # nothing to install
    profile = [f"{name} {TRAINING} --config.data.eval_size=8" for name in SFT]
    profile += [f"{name} {PPO}" for name in ("ppo", "ppo_factuality")]
    profile += [f"{name} {EVALUATION}" for name in ("evaluate_qa", "evaluate_biography", "generate_data")]
    (folder / "small.flags").write_text("\n".join([*profile, ""]))
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "HF_", "XLA_FLAGS"))}
    variables |= {"LC_VENV": str(environment), "LC_CACHE": str(folder / "cache"), "HF_HOME": str(folder / "hf")}
    variables |= {
        "LC_OUTPUT": str(folder / "out"),
        "LC_ANNOTATOR": JUDGE,
        "LC_VENDOR": VENDOR,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    variables |= {"LC_JEOPARDY": str(folder / data.JEOPARDY), "LC_BIOASQ": str(folder / data.BIOASQ)}
    pages = [(page["title"], f"<s>{page['text']}</s>") for page in miniature.build().pages()]
    variables |= {"LC_KNOWLEDGE": str(make_store(folder / "enwiki.db", pages)), "LC_RETRIEVER": "bm25"}
    (folder / "people.txt").write_text("".join(f"{person.description}\n" for person in PEOPLE))
    variables |= {"LC_ENTITIES": str(folder / "people.txt")}
    variables |= {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    with HubServer(folder / "hub") as hub, FakeServer(judge_of(world)) as vendor:
        variables |= {"HF_ENDPOINT": hub.url, "OPENAI_BASE_URL": vendor.openai_url}
        variables |= {"ANTHROPIC_BASE_URL": vendor.anthropic_url}
        yield folder, variables


def run(world, *command, **more):
    """Runs a command as the user would; gives what it printed."""
    folder, variables = world
    done = subprocess.run(command, env=variables | more, cwd=ROOT, capture_output=True, text=True)
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def paper(world):
    """The output folder of launch/reproduce.sh, for those who have the hub's questions alone."""
    without = {"LC_JEOPARDY": "", "LC_BIOASQ": ""}
    run(world, "bash", "launch/reproduce.sh", f"--profile={world[0] / 'small.flags'}", **without)
    return world[0] / "out"


@pytest.mark.slow
def test_what_is_in_the_way_is_said_together_before_anything_starts(world):
    folder, variables = world
    command = ["bash", "launch/reproduce.sh", "--check", f"--profile={folder / 'small.flags'}", "--devices=1xh100"]
    wrong = {"OPENAI_API_KEY": "", "LC_BIOASQ": "", "LC_REDPAJAMA_3B": "nobody/knows"}
    done = subprocess.run(command, env=variables | wrong, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Not evaluated: BioASQ: --config.questions.answers is empty" in done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert any("select LC RL, select Factuality RL and " in line and "set OPENAI_API_KEY" in line for line in errors)
    assert any("ExtractAnswers: 'nobody/knows'" in line and "the hub does not know it" in line for line in errors)
    assert not any("BioASQ" in line for line in errors)
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_the_last_table_has_every_method_on_every_data_set(paper):
    rows = json.loads((paper / "results.json").read_text())
    expected = [*itertools.product(METHODS, DATA), *((method, "biographies") for method in ON_BIOGRAPHIES)]
    assert sorted((row["method"], row["data"]) for row in rows) == sorted(expected)
    assert {row["num_questions"] for row in rows if row["data"] != "biographies"} == {data.NUM_TEST}
    assert {row["judge"] for row in rows} == {JUDGE}


@pytest.mark.slow
def test_reinforcement_learning_changed_the_policies(paper):
    for tuned, start in (("lc_rl", "lc_sft"), ("factuality_rl", "factuality_sft")):
        weights = [load_file(paper / name / "model" / "model.safetensors") for name in (tuned, start)]
        assert all(np.isfinite(value).all() for value in weights[0].values())
        assert any((weights[0][key] != weights[1][key]).any() for key in weights[1])


@pytest.mark.slow
def test_released_checkpoints_are_evaluated_by_their_names(world):
    """Differences are recovered from the base on the way, under the name with and the name without its ending."""
    out = world[0] / "released"
    for number, name in enumerate(models.POLICIES):
        model = f"{models.RELEASED}{name}{'-wdiff' * (number % 2)}"
        flags = ["published=true", f"model={model}", f"method={name}", f"output={out / name}"]
        flags += ["batch_size=8", f"annotator.name={JUDGE}", f"uses_confidence={'lc' in name}"]
        run(world, *MAIN, "--config=configs/evaluate_qa.py:sciq", *(f"--config.{flag}" for flag in flags))
    run(world, *MAIN, "--config=configs/report.py", f"--config.evaluations={out}", f"--config.output={out}")
    rows = json.loads((out / "results.json").read_text())
    assert sorted(row["method"] for row in rows) == sorted(models.POLICIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "policy", "reward_model"),
    [
        ("ppo", "lc-sft", "reward-model-forecastprobs"),
        ("ppo_factuality", "factuality-sft", "reward-model-factuality"),
    ],
)
def test_ppo_starts_from_released_checkpoints(world, config, policy, reward_model):
    names = {"policy": policy, "critic": reward_model, "reader.forecaster": reward_model}
    flags = [f"--config.{key}={models.RELEASED}{name}-wdiff" for key, name in names.items()]
    if config == "ppo":
        flags.append(f"--config.reader.extractor={models.RELEASED}extract-answers")
    output = world[0] / "from_released" / config
    flags += ["--config.published=true", f"--config.output={output}", *PPO.split(), "--config.ppo.num_steps=1"]
    run(world, *MAIN, f"--config=configs/{config}.py", *flags)
    assert (output / "model" / "config.json").is_file()
