"""An evaluation from end to end, as its command would run it, and PPO that is told to stop."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from lc_jax.rl.telemetry import RolloutLog
from lc_jax.tasks import evaluate_biography, evaluate_qa
from tests.llm.fake_server import KEY
from tests.tasks.test_pipeline import rows
from tests.test_configs import config_of


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def go(server, **overrides):
        config = config_of("evaluate_qa")
        config.output, config.method, config.data = str(tmp_path / "out"), "mine", "mine"
        config.annotator.name = "openai/gpt-4.1"
        if server:
            config.annotator.base_url = server.openai_url
            config.writer.base_url = server.openai_url
        config.questions.update(source="", split=None, answers=None, answers_split=None)
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in overrides.items()})
        assert evaluate_qa.needs_devices(config) == bool(config.model)
        evaluate_qa.run(config, None)
        return json.loads((tmp_path / "out" / "result.json").read_text()), rows(tmp_path / "out" / "records.jsonl")

    return go


@pytest.fixture
def evaluate_biographies(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def go(server, **overrides):
        config = config_of("evaluate_biography")
        config.output, config.method, config.retriever = str(tmp_path / "e" / "mine"), "mine", "bm25"
        config.annotator.name = "openai/gpt-4.1"
        if server:
            config.annotator.base_url = config.writer.base_url = server.openai_url
        config.update_from_flattened_dict({key.replace("__", "."): str(v) if isinstance(v, Path) else v
                                           for key, v in overrides.items()})  # fmt: skip
        evaluate_biography.run(config, None)
        output = tmp_path / "e" / "mine"
        return json.loads((output / "result.json").read_text()), rows(output / "records.jsonl")

    return go


@pytest.fixture
def sigterm_after(monkeypatch):
    """Returns a context in which PPO gets SIGTERM once it has logged a step, and has to exit with status 75."""

    @contextlib.contextmanager
    def step_of_run(last):
        write = RolloutLog.write

        def write_and_terminate(self, step, *args):
            write(self, step, *args)
            if step == last:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(RolloutLog, "write", write_and_terminate)
            with pytest.raises(SystemExit) as stopped:
                yield
        assert stopped.value.code == 75

    return step_of_run
