"""docs/generate_data.ipynb: runs as it stands, and was saved as it ran."""

import tempfile
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "generate_data.ipynb"


@pytest.fixture(scope="module")
def saved():
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_it_was_saved_after_a_whole_run(saved):
    nbformat.validate(saved)
    assert [cell.execution_count for cell in code(saved)] == [*range(1, len(code(saved)) + 1)]
    kinds = {output.get("name", output.output_type) for cell in code(saved) for output in cell.outputs}
    assert kinds == {"stdout"}, "an error, a warning or a value is among the outputs"
    text = "".join(map(printed, code(saved)))
    assert not [name for name in (str(Path.home()), tempfile.gettempdir(), "127.0.0.1") if name in text], (
        "that is this machine's own"
    )


@pytest.mark.slow
def test_it_runs(saved, tmp_path, monkeypatch):
    """A newcomer's copy: nothing but the repository, on one device, from the notebook's folder."""
    monkeypatch.setenv("LC_OUTPUT", str(tmp_path))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    again = nbformat.from_dict(saved)
    where = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(again, timeout=1800, startup_timeout=300, resources=where).execute()
    for old, new in zip(code(saved), code(again), strict=True):
        assert bool(printed(new)) == bool(printed(old)), f"save the notebook anew: {old.source[:60]!r} prints otherwise"
    text = "".join(map(printed, code(again)))
    assert "the same rows: True" in text
    assert "replies paid for meanwhile: 0" in text
    assert (tmp_path / "lc_sft" / "model" / "model.safetensors").exists()
