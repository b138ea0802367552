"""Every hub name that the project gives by itself is one that the hub's client takes, and has a namespace."""

import re
from collections.abc import Mapping

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id

from configs import base
from lc_jax.data.rows import MINIATURE, is_local
from lc_jax.models import hub
from tests.test_configs import EXPERIMENTS, ROOT, config_of

# Settings that name a model or data set, wherever they are in a config.
SOURCES = {
    "model",
    "policy",
    "critic",
    "extractor",
    "forecaster",
    "retriever",
    "base",
    "source",
    "questions",
    "answers",
}
OWNERS = "meta-llama|togethercomputer|tatsu-lab|mandarjoshi|allenai|sentence-transformers"
TEXTS = [*ROOT.glob("docs/*.md"), *ROOT.glob("launch/*"), *ROOT.glob("lc_jax/**/*.py"), *ROOT.glob("configs/*.py")]
TEXTS += [ROOT / "README.md", *ROOT.glob("docs/*.ipynb"), *ROOT.glob("benchmarks/*.py")]


def check(name):
    """Raises HFValidationError where the client refuses a name, or AssertionError where it has no namespace."""
    name = name.partition("@")[0].partition(":")[0]
    validate_repo_id(name)
    assert name.count("/") == 1, name


def sources(config, path=()):
    for name, value in config.items():
        if isinstance(value, Mapping) or hasattr(value, "items"):
            yield from sources(value, (*path, name))
        elif name in SOURCES and isinstance(value, str) and value:
            yield ".".join((*path, name)), value


@pytest.mark.parametrize("variable", ["trivia_qa", "jeopardy", "jeopardy:train", "a/b/c", "a--b/c", "-a/b"])
def test_the_check_refuses_what_the_client_refuses(variable):
    with pytest.raises((HFValidationError, AssertionError)):
        check(variable)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_configs_default_to_valid_hub_names(experiment, monkeypatch):
    for variable in ("LC_DATASET", "LC_TRIVIA_QA", "LC_JEOPARDY", "LC_SCIQ", "LC_BIOASQ"):
        monkeypatch.delenv(variable, raising=False)
    modes = {"evaluate_qa": ("", *base.TESTS), "pretrain": ()}.get(
        experiment, ("",)
    )  # pretrain is the miniature's only
    for mode in modes:
        for field, value in sources(config_of(experiment, mode)):
            own = value == MINIATURE or value == "bm25" or is_local(value) or value.startswith(("runs/", "/"))
            if not own:
                check(value), field


def test_defaults_in_the_code_and_its_data_sets_are_valid():
    for name in (hub.BASE, base.TRIVIA_QA, *(answers for _, answers, _ in base.TESTS.values() if answers)):
        check(name)
    for name in hub.RELEASED:
        check(hub.repository(f"tatsu-lab/linguistic-calibration-{name}"))


def test_names_in_docs_and_scripts_are_valid_and_none_lacks_its_namespace():
    names_of_data = []
    for path in TEXTS:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        names = re.findall(rf"\b(?:{OWNERS})/[\w.-]+", text)
        for name in names:
            check(name.rstrip(".-"))
        names_of_data += names
        bare = re.findall(r"(?<![\w/.-])(?:trivia_qa|jeopardy|sciq|bioasq):\w+", text)
        assert not bare, f"{path}: {bare}"
        defaults = re.findall(r"\$\{LC_[A-Z0-9_]+:-([\w.-]+/[\w.-]+)\}", text)
        for name in defaults:
            assert name.startswith("runs/") or check(name) is None
    assert len(names_of_data) > 10
