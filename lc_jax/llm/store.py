"""Stores every reply that was paid for, in one SQLite file that several processes may use at once.

A reply's key is the hash of the request and of the annotator's name. A reply is written before it is returned, so that
a run that was killed requests only what is missing. Only replies of status "ok" are stored: failed requests are sent
again.

Before a request is sent it is claimed. A process that meets the claim of another one waits for its reply in place of
paying for a second one. A process is alive as long as it holds the lock of a file next to the store; the claims of dead
processes do not count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from lc_jax.llm.checks import check_tables
from lc_jax.types import Reply, Request, Usage

MAX_LOCK_WAIT = 30.0  # seconds that another program may keep the file locked when it is opened
_TABLES = """
create table if not exists replies (key text primary key, model text, prompt text, temperature real, max_tokens integer,
    sample integer, schema text, reply text, input_tokens integer, output_tokens integer, cached_tokens integer,
    created real) without rowid;
create table if not exists claims (key text primary key, owner text) without rowid;
create table if not exists notes (name text primary key, value text) without rowid;
create table if not exists jobs (name text primary key, model text, requests text, id text, created real, owner text)
    without rowid;
"""


def key(model: str, request: Request) -> str:
    """Returns the SHA-256 of the request's canonical JSON and the annotator's name."""
    record = {"model": model, **vars(request), "temperature": float(request.temperature)}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Job:
    """A batch job at a provider."""

    name: str  # ours, given before it is submitted
    model: str  # name of the annotator
    requests: Mapping[str, Request]  # by key, which is the custom id
    id: str  # the provider's; "" before it is known
    created: float  # seconds since 1970


class Store:
    """One file of replies.

    Raises:
      ValueError: `path` is a file, but no store; or it cannot be written, or stays locked.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                check_tables(self.path)
            self.database = self._open()
            self.owner, alive = self._new_owner()
        except OSError as error:
            raise ValueError(
                f"{self.path}: the store of replies cannot be written ({error.strerror or error}); name another file "
                "with --config.store."
            ) from error
        self._finalizer = weakref.finalize(self, _close, self.database, alive, self._lock_file(self.owner), self.owner)
        for path in self.path.parent.glob(f"{glob.escape(self.path.name)}.*.lock"):
            self.is_alive(path.suffixes[-2].lstrip("."))  # tidies up after the dead

    def _open(self) -> sqlite3.Connection:
        """Returns the database with its tables.

        Raises:
          OSError: the file cannot be written, or another program keeps it locked.
          ValueError: it is no store.
        """
        started = time.monotonic()
        try:
            database = sqlite3.connect(self.path, timeout=1.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        while True:
            try:
                database.execute("pragma journal_mode = wal")
                database.execute("pragma synchronous = normal")  # safe against a killed process, fsync at checkpoints
                database.executescript(_TABLES)
                database.execute("pragma busy_timeout = 60000")  # milliseconds
                return database
            except sqlite3.OperationalError as error:  # others make the same file at this moment
                max_wait = MAX_LOCK_WAIT if "locked" in str(error) else 1.0
                if time.monotonic() - started > max_wait:
                    database.close()
                    raise OSError(str(error)) from error
                time.sleep(0.1)
            except sqlite3.DatabaseError as error:
                database.close()
                raise ValueError(
                    f"{self.path} is no store of replies ({error}); move it away or name another."
                ) from error

    def _new_owner(self) -> tuple[str, int]:
        """Returns the name of a new owner of claims, and the descriptor that holds its lock."""
        while True:
            owner = uuid.uuid4().hex
            descriptor = os.open(self._lock_file(owner), os.O_CREAT | os.O_RDWR)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._lock_file(owner).exists():  # no other process removed it before it was locked
                return owner, descriptor
            os.close(descriptor)

    def close(self) -> None:
        """Gives up this store's claims; the replies stay. Happens by itself when the store is no longer used."""
        self._finalizer()

    def _lock_file(self, owner: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{owner}.lock")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Yields the database under the lock; its errors become OSErrors that name the file."""
        with self.lock:
            try:
                yield self.database
            except sqlite3.Error as error:
                raise OSError(f"{self.path}: {error}; what was stored before stays.") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as database:
            database.execute("begin immediate")
            try:
                yield database
            except BaseException:
                database.execute("rollback")
                raise
            database.execute("commit")

    def get(self, key: str) -> Reply | None:
        """Returns the reply to the request `key`, or None. Its usage is zero, as it is not paid for again."""
        with self._reading():
            row = self.database.execute("select reply from replies where key = ?", (key,)).fetchone()
        return Reply("ok", row[0]) if row else None

    def put(self, model: str, replies: Mapping[str, tuple[Request, Reply]]) -> None:
        """Stores the replies of status "ok", by key, in one transaction, and ends the claims on the keys."""
        rows = []
        for key, (request, reply) in replies.items():
            row = (key, model, request.prompt, request.temperature, request.max_tokens, request.sample, request.schema)
            usage = reply.usage
            columns = (reply.text, usage.input_tokens, usage.output_tokens, usage.cached_tokens, time.time())
            rows += [row + columns] if reply.status == "ok" else []
        with self._writing() as database:
            database.executemany("delete from claims where key = ?", [(key,) for key in replies])
            database.executemany("insert or ignore into replies values (?,?,?,?,?,?,?,?,?,?,?,?)", rows)

    def claim(self, key: str) -> Literal["mine", "stored", "elsewhere"]:
        """Returns whether the caller must ask, the reply is stored, or a live process (also this one) is asking."""
        row = (key, self.owner, key)
        with self._writing() as database:
            fresh = "insert or ignore into claims select ?, ? where not exists (select 1 from replies where key = ?)"
            if database.execute(fresh, row).rowcount == 1:
                return "mine"
            if database.execute("select 1 from replies where key = ?", (key,)).fetchone():
                return "stored"
            owner = database.execute("select owner from claims where key = ?", (key,)).fetchone()[0]
            if self.is_alive(owner):
                return "elsewhere"
            database.execute("update claims set owner = ? where key = ?", (self.owner, key))
        return "mine"

    def release(self, keys: Iterable[str]) -> None:
        """Gives up claims of this store."""
        with self._writing() as database:
            database.executemany("delete from claims where key = ? and owner = ?", [(k, self.owner) for k in keys])

    def is_alive(self, owner: str) -> bool:
        if owner == self.owner:
            return True
        path = self._lock_file(owner)
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)

    def note(self, name: str) -> Any:
        """Returns the value that `remember` stored, or None."""
        with self._reading():
            row = self.database.execute("select value from notes where name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def remember(self, name: str, value: Any) -> None:
        """Stores a small fact, such as the capabilities of an unknown model."""
        with self._writing() as database:
            database.execute("insert or replace into notes values (?, ?)", (name, json.dumps(value)))

    def save_job(self, job: Job, owner: str | None = None) -> None:
        """Stores a job, which belongs to this store unless another owner ("": nobody) is named."""
        requests = json.dumps({key: vars(request) for key, request in job.requests.items()})
        row = (job.name, job.model, requests, job.id, job.created, self.owner if owner is None else owner)
        with self._writing() as database:
            database.execute("insert or replace into jobs values (?,?,?,?,?,?)", row)

    def forget_job(self, name: str) -> None:
        """Removes a job."""
        with self._writing() as database:
            database.execute("delete from jobs where name = ?", (name,))

    def abandoned_jobs(self, model: str) -> list[Job]:
        """Returns the jobs whose owners no longer live; from now on they are this store's."""
        jobs = []
        with self._writing() as database:
            for name, requests, job_id, created, owner in database.execute(
                "select name, requests, id, created, owner from jobs where model = ?", (model,)
            ).fetchall():
                if not self.is_alive(owner):
                    database.execute("update jobs set owner = ? where name = ?", (self.owner, name))
                    by_key = {key: Request(**fields) for key, fields in json.loads(requests).items()}
                    jobs.append(Job(name, model, by_key, job_id, created))
        return jobs

    def job_ids(self, model: str) -> set[str]:
        """Returns the provider's ids of the unfinished jobs of all owners."""
        with self._reading():
            return {
                row[0] for row in self.database.execute("select id from jobs where model = ? and id != ''", (model,))
            }

    def usage(self) -> dict[str, tuple[int, Usage]]:
        """Returns the number of replies by model, and the tokens that they cost."""
        sums = "model, count(*), sum(input_tokens), sum(output_tokens), sum(cached_tokens)"
        with self._reading():
            rows = self.database.execute(f"select {sums} from replies group by model order by model").fetchall()
        return {model: (count, Usage(*tokens)) for model, count, *tokens in rows}

    def rows(self, model: str = "") -> Iterator[dict[str, Any]]:
        """Returns every reply with its request, oldest first; of one model or ("") of all."""
        with self._reading():
            cursor = self.database.execute("select * from replies where ? in ('', model) order by created", (model,))
            names = [column[0] for column in cursor.description]
            rows = cursor.fetchall()
        return (dict(zip(names, row, strict=True)) for row in rows)

    def prune(self, model: str = "", before: float = float("inf")) -> int:
        """Removes the replies of a model ("": of all) from before a time (seconds since 1970); returns their number."""
        with self._writing() as database:
            return database.execute(
                "delete from replies where ? in ('', model) and created < ?", (model, before)
            ).rowcount


def _close(database: sqlite3.Connection, alive: int, lock_file: Path, owner: str) -> None:
    with contextlib.suppress(sqlite3.Error):
        database.execute("delete from claims where owner = ?", (owner,))
    database.close()
    lock_file.unlink(missing_ok=True)
    os.close(alive)
