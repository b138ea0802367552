"""Checks of the settings of an annotator, before anything is loaded, sent or paid for; no network is used."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lc_jax import llm
from lc_jax.llm import capabilities
from lc_jax.preflight import NATURAL, NON_NEGATIVE, Problems, check_all
from lc_jax.prompts import published

EXAMPLES = "anthropic/claude-haiku-4-5, openai/gpt-4.1-mini, local/FOLDER, rules/short-answer"
_PRICE = "three numbers of 0 or more, the dollars per million tokens of input, output and cached input"
_OVER_HTTP = ("anthropic", "openai")  # providers with an address, a key and requests side by side


def check_asking(settings: Mapping[str, Any], store: str | Path) -> None:
    """Checks all settings of a task that asks annotators, and those of a provider's model that writes.

    Args:
      settings: the fields of configs.base.asking, prompt_dir, and perhaps `writer` and `annotators`.
      store: the file of replies.

    Raises:
      Problems: one line for each setting that is wrong.
    """
    keyless, budget = bool(settings["dry_run"]), settings["budget"]
    others = {"writer": settings.get("writer") or {}}
    others |= {f"annotators.{role}": part for role, part in (settings.get("annotators") or {}).items()}
    annotators = {"annotator": settings["annotator"]} | {part: a for part, a in others.items() if a.get("name")}
    checks = [lambda: check_store(store), lambda: published.check(settings["prompt_dir"])]
    for part, annotator in annotators.items():
        checks.append(functools.partial(check_annotator, annotator, part, keyless=keyless))
        checks.append(functools.partial(check_budget, annotator, budget, part))
    check_all(*checks)


def check_annotator(settings: Mapping[str, Any], part: str = "annotator", *, keyless: bool = False) -> None:
    """Checks the settings of one annotator: name, base_url, batch, concurrency, price; empty ones are the provider's.

    Args:
      keyless: whether nothing will be sent, so that no key is needed.

    Raises:
      Problems: one line for each setting that is wrong.
    """
    name = settings.get("name")
    flag = f"--config.{part}"
    if not name:
        raise Problems([f"An annotator is needed: give {flag}.name=provider/model, such as {EXAMPLES}."])

    def check_numbers() -> None:
        concurrency, price = settings.get("concurrency") or 0, settings.get("price") or ()
        if concurrency not in NATURAL:
            raise ValueError(f"{flag}.concurrency={concurrency}: give {NATURAL}; 0 leaves it to the provider.")
        whole = isinstance(price, (tuple, list)) and len(price) in (0, 3)
        if not whole or not all(number in NON_NEGATIVE for number in price):
            raise ValueError(f"{flag}.price={price}: give {_PRICE}, such as (0.1,0.5,0.01).")

    def check_provider() -> None:
        provider, _ = llm.split_name(name)
        options = {"base_url": settings.get("base_url"), "batch": settings.get("batch"),
                   "concurrency": settings.get("concurrency")}  # fmt: skip
        surplus = [option for option, value in options.items() if value and provider not in _OVER_HTTP]
        if surplus:
            raise ValueError(f"{name} takes no {' and no '.join(surplus)}: leave {flag}.{surplus[0]} empty.")
        if provider in _OVER_HTTP:
            annotator: Any = llm.load(name, base_url=options["base_url"] or None)
            if not keyless:
                annotator.check_key()
        elif provider in ("simulated", "rules"):
            llm.load(name)

    check_all(check_numbers, check_provider)


def check_budget(settings: Mapping[str, Any], budget: object, part: str = "annotator") -> None:
    """Checks a limit in dollars, 0 for none, and that the annotator's price is known where there is one.

    Args:
      part: the annotator's place in the config.

    Raises:
      ValueError: it is no such number, or there is no price.
    """
    if budget not in NON_NEGATIVE:
        raise ValueError(f"--config.budget={budget}: give {NON_NEGATIVE}, in dollars; 0 sets no limit.")
    able = capabilities.of(str(settings.get("name") or ""))
    if budget and settings.get("name") and not settings.get("price") and not (able and able.price):
        raise ValueError(
            f"--config.budget={budget}: no price of {settings['name']} is known, so no budget can be kept: give "
            f"--config.{part}.price, {_PRICE}, or no budget."
        )


def check_store(path: str | Path, flag: str = "--config.store") -> None:
    """Checks that a store of replies can be opened or made at `path`; makes nothing.

    Raises:
      ValueError: it is a folder or another kind of file, or may not be written.
    """
    path = Path(path)
    folder = next(place for place in path.absolute().parents if place.exists())
    if path.is_dir():
        raise ValueError(f"{flag}={path} is a folder: name a file, such as {path / 'replies.sqlite'}.")
    if not folder.is_dir():
        raise ValueError(f"{flag}={path}: {folder} is a file; name another place.")
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"{flag}={path}: {folder} may not be written; name another file for the replies.")
    if path.exists():
        check_tables(path, flag)


def check_tables(path: Path, flag: str = "--config.store") -> None:
    """Checks that an existing file is a store of replies, or an empty one.

    Raises:
      ValueError: it is no SQLite file, or one of another program.
    """
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1.0)) as database:
            tables = {row[0] for row in database.execute("select name from sqlite_master where type = 'table'")}
            columns = {row[1] for row in database.execute("pragma table_info(replies)")}
    except sqlite3.OperationalError:
        return  # locked, or made at this moment: opening it waits and tells
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{flag}={path} is no store of replies ({error}); move it away or name another.") from error
    if tables and not columns.issuperset({"key", "model", "prompt", "reply"}):
        raise ValueError(f"{flag}={path} is no store of replies, but a database of {sorted(tables)[:3]}; name another.")
