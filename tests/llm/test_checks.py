"""Settings of annotators are refused before anything is sent, all of them at once, each in one line."""

import sqlite3
from pathlib import Path

import pytest

from lc_jax import llm
from lc_jax.llm import checks, store
from lc_jax.llm.session import open_configured
from lc_jax.llm.store import Store
from lc_jax.preflight import Problems
from lc_jax.prompts import published
from lc_jax.types import Reply, Request
from tests.llm.fake_server import KEY
from tests.test_configs import config_of

NO_KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY")


@pytest.fixture(autouse=True)
def keys(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no credentials there


def settings(**changes):
    return {"name": "openai/gpt-4.1", "base_url": "", "batch": False, "concurrency": 0, "price": ()} | changes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "An annotator is needed: give --config.annotator.name=provider/model, such as anthropic/"),
        ({"name": None}, "An annotator is needed"),
        ({"name": "openai"}, "No annotator 'openai': write provider/model, with one of the providers"),
        ({"name": "anthropics/x"}, "Did you mean anthropic/x?"),
        ({"name": "OpenAI/gpt-4.1"}, "Did you mean openai/gpt-4.1?"),
        ({"name": "gpt-4.1"}, "Did you mean openai/gpt-4.1?"),
        ({"name": "claude-haiku-4-5"}, "Did you mean anthropic/claude-haiku-4-5?"),
        ({"name": "simulated/maximature"}, "there is 'simulated/miniature'"),
        (
            {"name": "simulated/miniature", "base_url": "http://x"},
            "takes no base_url: leave --config.annotator.base_url empty",
        ),
        ({"name": "local/x", "batch": True, "concurrency": 3}, "local/x takes no batch and no concurrency"),
        ({"base_url": "localhost:8000"}, "has no scheme: write http://localhost:8000"),
        ({"concurrency": -1}, "--config.annotator.concurrency=-1: give a whole number of at least 0; 0 leaves"),
        ({"concurrency": 2.5}, "--config.annotator.concurrency=2.5"),
        ({"price": (1.0, 2.0)}, "--config.annotator.price=(1.0, 2.0): give three numbers of 0 or more"),
        ({"price": (1, 2, -3)}, "give three numbers"),
        ({"price": (1, 2, "3")}, "give three numbers"),
        ({"price": (1, 2, float("nan"))}, "give three numbers"),
        ({"price": "1,2,3"}, "give three numbers"),
    ],
)
def test_settings_that_are_wrong(changes, words):
    with pytest.raises(Problems) as caught:
        checks.check_annotator(settings(**changes))
    (message,) = caught.value.messages
    assert words in message
    assert "\n" not in message


def test_settings_that_are_right():
    for changes in (
        {},
        {"name": " openai/gpt-4.1"},
        {"name": "anthropic/claude-haiku-4-5"},
        {"concurrency": 8, "price": (1, 2, 0.5)},
        {"base_url": "http://localhost:8000"},
        {"name": "simulated/miniature"},
    ):
        checks.check_annotator(settings(**changes))


def test_several_wrong_settings_are_told_at_once():
    with pytest.raises(Problems) as caught:
        checks.check_annotator(settings(name="gpt-4.1", concurrency=-1), "writer")
    assert [message.split("=")[0].split(":")[0] for message in caught.value.messages] == [
        "--config.writer.concurrency",
        "No annotator 'gpt-4.1'",
    ]


@pytest.mark.parametrize(
    ("name", "variable"), [("openai/gpt-4.1", "OPENAI_API_KEY"), ("anthropic/claude-x", "ANTHROPIC_API_KEY")]
)
def test_a_missing_or_spoilt_key_is_told_before_anything_is_opened(name, variable, monkeypatch, tmp_path):
    for value, words in (
        ("", f"needs a key: set {variable}"),
        ("abc\n", f"{variable} holds a space"),
        ("schlüssel", "holds a space"),
    ):
        monkeypatch.setenv(variable, value)
        with pytest.raises(Problems, match=words):
            open_configured(settings(name=name), tmp_path / "out" / "replies.sqlite")
    assert not (tmp_path / "out").exists()
    monkeypatch.delenv(variable)
    with pytest.raises(Problems, match=f"needs a key: set {variable}"):
        checks.check_annotator(settings(name=name))
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path / "none"))
    with pytest.raises(Problems, match=f"set {variable}|Config file not found .* Or set {variable}"):
        checks.check_annotator(settings(name=name))
    monkeypatch.delenv("ANTHROPIC_CONFIG_DIR")
    checks.check_annotator(settings(name=name), keyless=True)  # a dry run sends nothing
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "another credential")
    checks.check_annotator(settings(name="anthropic/claude-x"))
    checks.check_annotator(settings(base_url="http://localhost:8000"))  # a server of the user's needs no key


@pytest.mark.parametrize("budget", [-1, -0.01, float("nan"), float("inf"), "20", None, True])
def test_budgets_that_are_none(budget):
    with pytest.raises(ValueError, match=r"--config\.budget=.*: give a number of at least 0, in dollars; 0 sets"):
        checks.check_budget(settings(), budget)


def test_a_budget_needs_a_price():
    checks.check_budget(settings(), 20)
    checks.check_budget(settings(name="openai/llama"), 0)
    checks.check_budget(settings(name="openai/llama", price=(1, 2, 3)), 20)
    with pytest.raises(ValueError, match=r"no price of openai/llama is known.*--config\.annotator\.price"):
        checks.check_budget(settings(name="openai/llama"), 20)


def other_database(path):
    with sqlite3.connect(path) as database:
        database.execute("create table pages (title text)")
    database.close()
    return path


def test_files_that_are_no_store(tmp_path):
    (tmp_path / "text").write_text("not a database, but text that is long enough to be looked at")
    (tmp_path / "folder").mkdir()
    for path, words in (
        (tmp_path / "text", "is no store of replies"),
        (other_database(tmp_path / "pages"), r"but a database of \['pages'\]"),
        (tmp_path / "folder", "is a folder: name a file"),
        (tmp_path / "text" / "replies.sqlite", "is a file; name another place"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            checks.check_store(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=str(tmp_path)) as caught:
            Store(path)
        assert "\n" not in str(caught.value)
    with sqlite3.connect(tmp_path / "pages") as database:  # nothing was added to another program's file
        assert database.execute("select name from sqlite_master").fetchall() == [("pages",)]
    database.close()
    checks.check_store(tmp_path / "new" / "deep" / "replies.sqlite")
    assert not (tmp_path / "new").exists()
    Store(tmp_path / "new" / "replies.sqlite").close()
    checks.check_store(tmp_path / "new" / "replies.sqlite")
    (tmp_path / "empty").touch()
    Store(tmp_path / "empty").close()


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"may not be written; name another file for the replies"):
        checks.check_store(tmp_path / "replies.sqlite")
    with pytest.raises(ValueError, match=r"cannot be written .* name another file with --config\.store"):
        Store(Path("/proc/nowhere/replies.sqlite"))


def test_a_locked_store(tmp_path, monkeypatch):
    path = tmp_path / "replies.sqlite"
    Store(path).close()
    monkeypatch.setattr(store, "MAX_LOCK_WAIT", 0.5)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("pragma locking_mode = exclusive")
    holder.execute("begin exclusive")
    try:
        with pytest.raises(ValueError, match=r"cannot be written \(database is locked\); name another file"):
            Store(path)
    finally:
        holder.close()
    Store(path).close()


def test_a_store_that_breaks_names_its_file(tmp_path):
    replies = Store(tmp_path / "replies.sqlite")
    replies.database.execute("drop table replies")
    with pytest.raises(OSError, match=r"replies\.sqlite: no such table: replies"):
        replies.get("x")
    with pytest.raises(OSError, match=r"replies\.sqlite: no such table: replies"):
        replies.put("m", {"x": (Request("p", 0.0, 1), Reply("ok", "t"))})
    replies.close()


def test_folders_of_wordings(tmp_path):
    published.check("")
    with pytest.raises(FileNotFoundError, match=r"--config\.prompt_dir='.*nowhere': no such folder"):
        published.check(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds none of the published files, such as \['extract_answers_claude_8shot"):
        published.check(tmp_path)
    path = tmp_path / Path(published.FILES["eval_extract"]).name
    path.write_bytes("Paragraph: {generated_paragraph} é {question}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"extract_answers_claude_10shot\.txt is no text in UTF-8 \(byte 33\)"):
        published.check(tmp_path)
    path.write_text("\ufeffParagraph: {generated_paragraph} {question}", encoding="utf-8")
    published.check(tmp_path)


@pytest.mark.parametrize("task", ["evaluate_qa", "evaluate_biography", "generate_data"])
def test_a_task_tells_all_that_is_wrong_before_it_starts(task, tmp_path, monkeypatch):
    import importlib

    for variable in NO_KEYS:
        monkeypatch.delenv(variable, raising=False)
    config = config_of(task)
    config.output = str(tmp_path / "out")
    config.annotator.name, config.budget, config.prompt_dir = "openai/gpt-4.1", -2.0, "nowhere"
    if task == "generate_data":
        config.what = "queries"
    with pytest.raises(Problems) as caught:
        importlib.import_module(f"lc_jax.tasks.{task}").check(config)
    messages = "\n".join(caught.value.messages)
    for words in ("set OPENAI_API_KEY", "--config.budget=-2.0", "--config.prompt_dir='nowhere'"):
        assert words in messages
    assert ("Who writes the paragraphs?" in messages) == (task != "generate_data")
    assert not list(tmp_path.iterdir())


def test_a_name_with_a_provider_is_split():
    assert llm.split_name("local/a/b") == ("local", "a/b")
