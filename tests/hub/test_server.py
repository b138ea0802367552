"""The loopback hub answers the hub's own client as the hub does."""

import pytest
from huggingface_hub import HfApi, HfFileSystem, errors, snapshot_download

from tests.hub.server import HubServer, commit_of


@pytest.fixture
def hub(tmp_path):
    for path in ("models/me/model/config.json", "models/me/model/a/b.txt", "models/me/secret/config.json"):
        (tmp_path / "hub" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / path).write_text(path)
    (tmp_path / "hub" / "datasets" / "me" / "data" / "train").mkdir(parents=True)
    (tmp_path / "hub" / "datasets" / "me" / "data" / "train" / "rows.jsonl").write_text('{"a": 1}\n')
    with HubServer(tmp_path / "hub", gated=("me/secret",)) as server:
        yield server


def test_a_snapshot_is_the_folder_at_its_commit(hub, tmp_path):
    for revision in (None, commit_of("me/model")):
        path = snapshot_download("me/model", revision=revision, endpoint=hub.url, cache_dir=tmp_path / "cache")
        assert path.endswith(commit_of("me/model"))
        assert (tmp_path / "cache" / "models--me--model").is_dir()
        with open(f"{path}/a/b.txt") as file:
            assert file.read() == "models/me/model/a/b.txt"


def test_data_sets_are_listed_and_read_as_files(hub):
    files = HfFileSystem(endpoint=hub.url, skip_instance_cache=True)
    assert files.ls("datasets/me/data", detail=False) == ["datasets/me/data/train"]
    assert files.cat_file("datasets/me/data/train/rows.jsonl") == b'{"a": 1}\n'
    assert HfApi(endpoint=hub.url).dataset_info("me/data").sha == commit_of("me/data")


@pytest.mark.parametrize(
    ("name", "revision", "error"),
    [
        ("me/nothing", None, errors.RepositoryNotFoundError),
        ("me/model", "v9", errors.RevisionNotFoundError),
        ("me/secret", None, errors.GatedRepoError),
    ],
)
def test_what_is_not_there_or_gated_is_refused_as_by_the_hub(hub, tmp_path, name, revision, error):
    ask = HfApi(endpoint=hub.url).model_info if revision else HfApi(endpoint=hub.url).auth_check
    with pytest.raises(error):
        ask(name, **{"revision": revision} if revision else {})
    with pytest.raises(error):
        snapshot_download(name, revision=revision, endpoint=hub.url, cache_dir=tmp_path / "cache")
