"""docs/*.ipynb: they run without changes, and were saved with the output of a run."""

import tempfile
from pathlib import Path

import nbclient
import nbformat
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
# What each must print, and a file that it must leave.
NOTEBOOKS = {
    "generate_data": (("the same rows: True", "replies paid for meanwhile: 0"), "lc_sft/model/model.safetensors"),
    "evaluate": (("requests that the server saw: 0", "as in result.json: True"), "report/report.html"),
}


@pytest.fixture(params=NOTEBOOKS)
def name(request):
    return request.param


@pytest.fixture
def saved(name):
    return nbformat.read(DOCS / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells):
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def kinds(cell):
    """Returns the kinds of outputs of a cell: "stdout" and "figure" are good; errors, warnings and values are not."""
    return {
        "figure" if "image/png" in output.get("data", ()) else output.get("name", output.output_type)
        for output in cell.outputs
    }


def test_every_notebook_is_run():
    assert {path.stem for path in DOCS.glob("*.ipynb")} == set(NOTEBOOKS)


def test_it_was_saved_after_a_whole_run(saved):
    nbformat.validate(saved)
    assert [cell.execution_count for cell in code(saved)] == [*range(1, len(code(saved)) + 1)]
    assert set().union(*map(kinds, code(saved))) <= {"stdout", "figure"}
    text = printed(code(saved))
    assert not [own for own in (str(Path.home()), tempfile.gettempdir(), "127.0.0.1") if own in text], (
        "that is this machine's own"
    )


@pytest.mark.slow
def test_it_runs(name, saved, tmp_path, monkeypatch):
    """A newcomer's copy: nothing but the repository, on one device, from the notebook's folder."""
    monkeypatch.setenv("LC_OUTPUT", str(tmp_path))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    again = nbformat.from_dict(saved)
    where = {"metadata": {"path": str(DOCS)}}
    nbclient.NotebookClient(again, timeout=1800, startup_timeout=300, resources=where).execute()
    for old, new in zip(code(saved), code(again), strict=True):
        assert kinds(new) == kinds(old), f"save the notebook again: {old.source[:60]!r} shows otherwise"
    needed, file = NOTEBOOKS[name]
    assert not [words for words in needed if words not in printed(code(again))]
    assert (tmp_path / file).exists()
