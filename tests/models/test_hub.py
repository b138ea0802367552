"""Checkpoints by hub name, with a hub of our own: revisions, formats, what fails, published differences recovered."""

import importlib
import json
import shutil
import sys
from fnmatch import fnmatch

import httpx2
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors

from lc_jax import parallel
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.models import difference, folders, hf, hub
from tests.hub.server import HubServer
from tests.models.conftest import assert_same, random_model
from tests.test_configs import config_of

LC_SFT = "tatsu-lab/linguistic-calibration-lc-sft"
STORED = f"{LC_SFT}-wdiff"  # what the hub calls it


class Hub:
    """Holds folders by name and revision, and gives them as snapshots."""

    def __init__(self, root):
        self.root, self.repositories, self.requests, self.error = root, {}, [], None

    def snapshot_download(self, name, *, revision=None, allow_patterns):
        self.requests.append((name, revision, tuple(allow_patterns)))
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
    hub = Hub(tmp_path / "snapshots")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setenv("LC_CACHE", str(tmp_path / "cache"))
    return hub


def test_a_name_and_a_revision_load_as_the_folder_does(fake, mesh, folder):
    (folder / "training_args.bin").write_bytes(b"code")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights again")
    fake.repositories = {("me/model", None): folder, ("me/model", "v2"): folder}
    for name in ("me/model", "me/model@v2"):
        assert_same(hf.load(name, mesh), hf.load(folder, mesh))
    assert {revision for _, revision, _ in fake.requests} == {None, "v2"}
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
        (ConnectionError, "the download failed"),
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
    fake.repositories = {(hub.BASE, None): tmp_path / "base", (STORED, None): tmp_path / "difference"}
    return tmp_path / "tuned"


@pytest.mark.parametrize("name", [LC_SFT, STORED])
def test_a_published_name_is_the_recovered_model(fake, mesh, release, tmp_path, name):
    expected = hf.load(release, mesh)
    assert_same(hf.load(name, mesh), expected)
    num_requests = len([name for name, _, _ in fake.requests if name == hub.BASE])
    assert num_requests > 0
    assert_same(hf.load(name, mesh), expected)  # kept
    assert len([name for name, _, _ in fake.requests if name == hub.BASE]) == num_requests
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{STORED.replace('/', '--')}--c0ffee"]


@pytest.mark.parametrize("name", hub.RELEASED)
def test_released_checkpoints_are_known_by_both_names_and_stored_under_one(name):
    """Only extract-answers is stored whole, and without an ending."""
    plain = f"tatsu-lab/linguistic-calibration-{name}"
    source = plain if name == "extract-answers" else f"{plain}-wdiff"
    for alias in (plain, f"{plain}-wdiff", f"{plain}@v2", f"{plain}-wdiff@v2"):
        assert (hub.released(alias), hub.repository(alias)) == (name, source)
        assert hub.is_difference(alias) == (name != "extract-answers")


def test_other_names_are_left_as_they_are():
    for alias in ("me/lc-sft", "me/lc-sft-wdiff", "tatsu-lab/linguistic-calibration-other", "tatsu-lab/alpaca@v1"):
        assert hub.released(alias) == ""
        assert hub.repository(alias) == alias.partition("@")[0]
        assert not hub.is_difference(alias)


def test_a_released_extractor_is_loaded_as_it_is(fake, mesh, folder):
    name = "tatsu-lab/linguistic-calibration-extract-answers"
    (folder / "model_sum.txt").write_text("1.0")
    fake.repositories = {(name, None): folder}
    for alias in (name, f"{name}-wdiff"):
        assert_same(hf.load(alias, mesh), hf.load(folder, mesh))


def test_a_difference_under_any_other_name_is_refused_with_the_command(fake, mesh, release, tmp_path):
    fake.repositories |= {("me/copy", None): tmp_path / "difference", ("me/x-wdiff", None): tmp_path / "tuned"}
    for name in ("me/copy", "me/x-wdiff"):
        with pytest.raises(ValueError, match=rf"{name} holds a weight difference.*convert\.py --config\.base=\S+hf "):
            hf.load(name, mesh)


def test_the_base_may_be_a_local_folder(fake, mesh, release, tmp_path, monkeypatch):
    monkeypatch.setenv("LC_LLAMA_2_7B", str(tmp_path / "base"))
    assert folders.config_of(LC_SFT)[1] == "causal"
    assert hub.BASE not in {name for name, _, _ in fake.requests}


def test_the_base_may_be_a_copy_on_the_hub(fake, mesh, release, tmp_path, monkeypatch):
    fake.repositories["me/copy", None] = fake.repositories.pop((hub.BASE, None))
    monkeypatch.setenv("LC_LLAMA_2_7B", "me/copy")
    assert_same(hf.load(LC_SFT, mesh), hf.load(release, mesh))


def test_access_is_checked_before_anything_is_downloaded(folder, tmp_path, monkeypatch):
    for name in ("meta-llama/Llama-2-7b-hf", f"{LC_SFT}-wdiff", "me/copy"):
        shutil.copytree(folder, tmp_path / "hub" / "models" / name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    with HubServer(tmp_path / "hub", gated=(hub.BASE,)) as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for name in (hub.BASE, LC_SFT):
            with pytest.raises(FileNotFoundError, match=r"Llama-2-7b-hf' .* is gated: accept its licence"):
                hub.check_access(name)
        with pytest.raises(FileNotFoundError, match="does not know it"):
            hub.check_access("me/nothing")
        with pytest.raises(FileNotFoundError, match="not its revision 'v9'"):
            hub.check_access("me/copy@v9")
        monkeypatch.setenv("LC_LLAMA_2_7B", "me/copy")
        hub.check_access(LC_SFT)
        assert not any("/resolve/" in request for request in server.requests)
        hub.download("me/copy")
        pickled = tmp_path / "hub" / "models" / "me" / "pickled"
        shutil.copytree(folder, pickled)
        (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
        hub.check_access("me/pickled")
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ValueError, match="me/pickled is a torch pickle: pip install torch"):
            hub.check_access("me/pickled")
    hub.check_access("me/copy")  # the hub is gone, the cache has it


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
