"""Checkpoints by hub name, with a hub of our own: revisions, formats, what fails, published differences recovered."""

import importlib
import json
import shutil
from fnmatch import fnmatch

import httpx2
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models import difference, folders, hf, hub
from tests.models.conftest import assert_same, random_model
from tests.test_configs import config_of

LC_SFT = "tatsu-lab/linguistic-calibration-lc-sft"


class Hub:
    """Holds folders by name and revision, and gives them as snapshots."""

    def __init__(self, root):
        self.root, self.repositories, self.asked, self.error = root, {}, [], None

    def snapshot_download(self, name, *, revision=None, allow_patterns):
        self.asked.append((name, revision, tuple(allow_patterns)))
        if self.error:
            raise self.error
        snapshot = self.root / name.replace("/", "--") / (revision or "c0ffee")
        snapshot.mkdir(parents=True, exist_ok=True)
        for file in self.repositories[name, revision].iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, snapshot / file.name)
        return str(snapshot)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    made = Hub(tmp_path / "snapshots")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setenv("LC_CACHE", str(tmp_path / "cache"))
    return made


def test_a_name_and_a_revision_load_as_the_folder_does(fake, mesh, folder):
    (folder / "training_args.bin").write_bytes(b"code")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    fake.repositories = {("me/model", None): folder, ("me/model", "v2"): folder}
    for name in ("me/model", "me/model@v2"):
        assert_same(hf.load(name, mesh), hf.load(folder, mesh))
    assert {revision for _, revision, _ in fake.asked} == {None, "v2"}
    copied = {path.name for path in (fake.root / "me--model" / "v2").iterdir()}
    assert copied == {"config.json", "generation_config.json", "model.safetensors"}


def test_pickles_are_fetched_only_where_there_is_nothing_else(fake, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (folder / "optimizer.bin").write_bytes(b"large")
    fake.repositories = {("me/model", None): folder}
    assert (hub.download("me/model") / "pytorch_model.bin").is_file()
    assert not (hub.download("me/model") / "optimizer.bin").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, r"'meta/llama' .* is gated: accept its licence at https://huggingface\.co/meta/llama"),
        (errors.RepositoryNotFoundError, "does not know it"),
        (errors.RevisionNotFoundError, "not its revision 'v9'"),
        (ConnectionError, "could not be reached"),
    ],
)
def test_what_fails_is_named_with_a_remedy(fake, mesh, kind, message):
    response = httpx2.Response(403, request=httpx2.Request("GET", "https://huggingface.co"))
    fake.error = kind("no", response=response) if issubclass(kind, errors.HfHubHTTPError) else kind("no")
    with pytest.raises(FileNotFoundError, match=message) as error:
        hf.load("meta/llama@v9", mesh)
    assert "Give a folder that was downloaded elsewhere" in str(error.value)


@pytest.fixture
def release(fake, mesh, tmp_path, monkeypatch):
    """A base and a published difference from it on the hub; the tuned model."""
    base, tuned = random_model(mesh), random_model(mesh, param_dtype="bfloat16")
    for name, model in (("base", base), ("tuned", tuned)):
        hf.save(tmp_path / name, model)
    difference.make(tmp_path / "base", tmp_path / "tuned", tmp_path / "difference")
    fake.repositories = {(hub.BASE, None): tmp_path / "base", (LC_SFT, None): tmp_path / "difference"}
    return tmp_path / "tuned"


def test_a_published_name_is_the_recovered_model(fake, mesh, release, tmp_path):
    expected = hf.load(release, mesh)
    assert_same(hf.load(LC_SFT, mesh), expected)
    num_asked = len([name for name, _, _ in fake.asked if name == hub.BASE])
    assert num_asked > 0
    assert_same(hf.load(LC_SFT, mesh), expected)  # kept
    assert len([name for name, _, _ in fake.asked if name == hub.BASE]) == num_asked
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{LC_SFT.replace('/', '--')}--c0ffee"]


def test_the_base_may_be_a_local_folder(fake, mesh, release, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_LLAMA_2_7B", str(tmp_path / "base"))
    assert folders.config_of(LC_SFT)[1] == "causal"
    assert hub.BASE not in {name for name, _, _ in fake.asked}


def test_a_wrong_base_leaves_nothing_in_the_cache(fake, mesh, release, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_LLAMA_2_7B", str(tmp_path / "tuned"))
    with pytest.raises(ValueError, match="nothing was written"):
        hf.load(LC_SFT, mesh)
    assert list((tmp_path / "cache").iterdir()) == []


def test_convert_takes_names_too(fake, release, tmp_path):
    config = config_of("convert")
    config.base, config.source, config.destination = hub.BASE, LC_SFT, str(tmp_path / "out")
    importlib.import_module("lc_jax.tasks.convert").run(config, parallel.make_mesh())
    a, b = (hf.Tensors(path) for path in (release, tmp_path / "out"))
    assert all(np.array_equal(a.slice(k)[...], b.slice(k)[...]) for k in a.names())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_tokenizers_take_revisions(monkeypatch, tmp_path):
    """The tokenizer comes from the same snapshot as the weights."""
    names = []
    monkeypatch.setattr(hub, "download", lambda name: names.append(name) or tmp_path)
    for name in ("me/model", "me/model@v2"):
        with pytest.raises(ValueError, match=f"No tokenizer at '{name}'"):
            load_tokenizer(name)
    assert names == ["me/model", "me/model@v2"]
