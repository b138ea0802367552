"""An evaluation from end to end, as its command would run it."""

import json

import pytest

from lc_jax.tasks import evaluate_qa
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
