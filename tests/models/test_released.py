"""Released checkpoints by name or folder, and the warning where they are asked in other words than in training."""

import hashlib
import json

import jax
import pytest

from lc_jax.models import difference, hf, hub, registry, released
from lc_jax.prompts import Prompt, load_templates
from tests.models.conftest import random_model

TRAINED_ON = Prompt("Published words. {paragraph_generation_prompt}")


@pytest.fixture
def digest(monkeypatch):
    """TRAINED_ON in the place of the published wording of paragraphs."""
    words = hashlib.sha256(TRAINED_ON.template.encode()).hexdigest()[:16]
    monkeypatch.setitem(released._WORDINGS, "paragraph", words)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("tatsu-lab/linguistic-calibration-lc-rl", "lc-rl"),
        ("tatsu-lab/linguistic-calibration-lc-rl-wdiff@v1", "lc-rl"),
        ("tatsu-lab/linguistic-calibration-extract-answers", "extract-answers"),
        ("/cache/tatsu-lab--linguistic-calibration-factuality-rl-wdiff--c0ffee", "factuality-rl"),
        ("/hub/models--tatsu-lab--linguistic-calibration-extract-answers/snapshots/c0ffee", "extract-answers"),
        ("/data/linguistic-calibration-reward-model-factuality", "reward-model-factuality"),
        ("/data/lc-rl", ""),
        ("tatsu-lab/linguistic-calibration-lc-rl-mine", ""),
        ("meta-llama/Llama-2-7b-hf", ""),
        ("runs/linguistic-calibration-lc-rl/model", ""),  # what was trained in a folder of that name
    ],
)
def test_released_checkpoints_are_known_by_their_names(path, key):
    assert released.name_of(path) == key


@pytest.mark.parametrize("key", hub.RELEASED)
def test_our_own_templates_are_not_what_they_were_trained_on(key, caplog):
    path = f"tatsu-lab/linguistic-calibration-{key}"
    for name in ("full", "short", "chat"):
        assert released.warn_of_wording(path, getattr(load_templates(name), hub.RELEASED[key]))
    assert f"{path} is the released {key}, which was trained on the published wording" in caplog.text
    assert "--config.prompt_dir=FOLDER" in caplog.text


def test_the_wording_that_a_checkpoint_was_trained_on_is_no_warning(digest, caplog):
    path = "tatsu-lab/linguistic-calibration-lc-sft"
    assert not released.warn_of_wording(path, TRAINED_ON)
    assert not released.warn_of_wording("mine/model", load_templates("short").paragraph)
    assert not caplog.text
    assert released.warn_of_wording(path, Prompt(f"{TRAINED_ON.template} "[:-2]))


@pytest.mark.parametrize("name", ["lc-sft-wdiff", "linguistic-calibration-lc-sft-wdiff"])
def test_a_recovered_folder_says_what_it_was_recovered_from(mesh, tmp_path, name):
    base = random_model(mesh)
    hf.save(tmp_path / "base", base)
    hf.save(tmp_path / name, base.with_params(jax.tree.map(lambda x: 0.01 * x, base.params)))
    difference.recover(tmp_path / "base", tmp_path / name, tmp_path / "mine")
    assert released.name_of(tmp_path / "mine") == "lc-sft"
    assert json.loads((tmp_path / "mine" / "config.json").read_text())["recovered_from"] == name
    model = hf.load(tmp_path / "mine", mesh)
    assert isinstance(model.config, type(registry.from_preset("tiny-llama")))
    hf.save(tmp_path / "trained", model)  # a model trained from it is another one
    assert released.name_of(tmp_path / "trained") == ""
