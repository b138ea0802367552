from __future__ import annotations

import asyncio
import collections
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from lc_jax.llm import store
from lc_jax.llm.session import Session
from lc_jax.llm.store import Store
from lc_jax.types import Reply, Request, Usage
from tests.llm.asking import Scripted, ask
from tests.llm.fake_server import KEY, FakeServer, Fault
from tests.llm.worker import CONCURRENCY


class Echo(Scripted):
    """Answers in capitals; "bad" fails."""

    def __init__(self):
        super().__init__(self.reply, "echo/test", concurrency=8)

    def reply(self, request):
        if request.prompt == "bad":
            return Reply("failed", detail="down")
        return Reply("ok", request.prompt.upper(), usage=Usage(3, 2))

    @property
    def prompts(self):
        return [request.prompt for request in self.requests]


def requests(*prompts):
    return [Request(prompt, 0.2, 9) for prompt in prompts]


def texts(session, *prompts):
    return [reply.text for reply in ask(session, requests(*prompts))]


def test_half_a_surrogate_pair_is_a_replacement_character_in_requests_replies_and_the_store(tmp_path):
    half, whole = "half \ud83d.", "whole \ud83d\ude00 \u00e9"
    (request,), (fine,) = requests(half), requests(whole)
    assert request.prompt == "half \ufffd."
    assert fine.prompt == "whole \U0001f600 \u00e9"
    assert Reply("ok", half) == Reply("ok", "half \ufffd.")
    assert Reply("failed", detail=half).detail == "half \ufffd."
    annotator = Echo()
    assert texts(Session(annotator, Store(tmp_path / "s")), half) == ["HALF \ufffd."]
    assert texts(Session(annotator, Store(tmp_path / "s")), half) == ["HALF \ufffd."]
    assert annotator.prompts == ["half \ufffd."]  # once
    (row,) = Store(tmp_path / "s").rows()
    assert (row["prompt"], row["reply"]) == ("half \ufffd.", "HALF \ufffd.")


def test_only_what_is_missing_is_asked(tmp_path):
    first, second = Echo(), Echo()
    assert texts(Session(first, Store(tmp_path / "s")), "a", "b", "bad", "a") == ["A", "B", "", "A"]
    assert sorted(first.prompts) == ["a", "b", "bad"]
    replies = ask(Session(second, Store(tmp_path / "s")), requests("c", "b", "bad", "d", "a"))
    assert [reply.text for reply in replies] == ["C", "B", "", "D", "A"]
    assert sorted(second.prompts) == ["bad", "c", "d"]  # a failure is asked again
    assert replies[1].usage == Usage()  # not paid for again
    assert replies[0].usage == Usage(3, 2)
    assert replies[2] == Reply("failed", detail="down")


def test_everything_that_shapes_a_reply_is_in_its_key():
    base = Request("p", 0.0, 9, 0, "")
    others = [Request("q", 0.0, 9), Request("p", 0.1, 9), Request("p", 0.0, 8), Request("p", 0.0, 9, 1),
              Request("p", 0.0, 9, 0, "{}")]  # fmt: skip
    keys = {store.key("m", request) for request in [base, *others]} | {store.key("n", base)}
    assert len(keys) == 7
    assert store.key("m", Request("p", 0, 9)) == store.key("m", base)  # 0 and 0.0


def test_stored_replies_stream_with_little_memory(tmp_path):
    prompts = [str(i) for i in range(200)]
    texts(Session(Echo(), Store(tmp_path / "s")), *prompts[::3])
    echo, num_requests, in_order = Echo(), 0, []

    def drawing():
        nonlocal num_requests
        for request in requests(*prompts):
            num_requests += 1
            yield request

    session = Session(echo, Store(tmp_path / "s"))

    async def consume():
        async for reply in session.map(session.ask, drawing()):
            in_order.append(reply.text)
            assert num_requests - len(in_order) <= 8 * echo.concurrency

    session.run(consume())
    assert in_order == prompts
    assert len(echo.prompts) == 200 - len(prompts[::3])


def test_list_export_and_prune(tmp_path, capsys):
    from lc_jax.llm import __main__ as command

    replies = Store(tmp_path / "s")
    texts(Session(Echo(), replies), "a", 'b "\u2028')
    assert replies.usage() == {"echo/test": (2, Usage(6, 4))}
    command.main(["list", str(tmp_path / "s")])
    assert "echo/test" in capsys.readouterr().out
    command.main(["export", str(tmp_path / "s"), "--output", str(tmp_path / "out.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().split("\n") if line]
    assert {(row["prompt"], row["reply"]) for row in rows} == {("a", "A"), ('b "\u2028', 'B "\u2028')}
    command.main(["prune", str(tmp_path / "s"), "--model", "other/model"])
    assert replies.usage()
    command.main(["prune", str(tmp_path / "s"), "--model", "echo/test"])
    assert replies.usage() == {}
    with pytest.raises(SystemExit, match="no such store"):
        command.main(["list", str(tmp_path / "nowhere")])


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "s").write_text("question,answer\n" * 100)
    with pytest.raises(ValueError, match="is no store of replies"):
        Store(tmp_path / "s")


def test_claims(tmp_path):
    mine, other = Store(tmp_path / "s"), Store(tmp_path / "s")
    assert mine.claim("k") == "mine"
    assert mine.claim("k") == other.claim("k") == "elsewhere"
    mine.release(["k"])
    assert other.claim("k") == "mine"
    other.put("m", {"k": (Request("p", 0.0, 9), Reply("refused"))})
    assert mine.claim("k") == "mine"  # a refusal is no reply
    mine.close()
    assert other.claim("k") == "mine"
    assert len(list(tmp_path.glob("*.lock"))) == 1
    code = "import os, sys; from lc_jax.llm.store import Store; s = Store(sys.argv[1]); s.claim('dead'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False)
    assert len(list(tmp_path.glob("*.lock"))) == 2
    assert other.claim("dead") == "mine"
    assert len(list(tmp_path.glob("*.lock"))) == 1


def test_leaving_a_stream_gives_up_its_claims(tmp_path):
    class Slow(Echo):
        async def ask(self, request):
            if request.prompt == "b":
                await asyncio.sleep(60)
            return await super().ask(request)

    session = Session(Slow(), Store(tmp_path / "s"))

    async def leave():
        async for _ in session.map(session.ask, requests("a", "b")):
            return

    session.run(leave())
    with sqlite3.connect(tmp_path / "s") as database:
        assert database.execute("select count(*) from claims").fetchone() == (0,)
    database.close()


def start(server, tmp_path, output, first=0, last=2000):
    command = [sys.executable, "-m", "tests.llm.worker", server.openai_url, str(tmp_path / "s"), str(output)]
    environment = os.environ | {"OPENAI_API_KEY": KEY}
    return subprocess.Popen([*command, str(first), str(last)], env=environment, stderr=subprocess.PIPE)


def kept_prompts(path):
    if not path.exists():
        return set()
    database = sqlite3.connect(path)
    rows = database.execute("select prompt from replies").fetchall() if tables(database) else []
    database.close()
    return {row[0] for row in rows}


def tables(database):
    return database.execute("select 1 from sqlite_master where name = 'replies'").fetchall()


class Killer:
    """Faults in one request of ten; kills the process that asks, at the first request after `every` paid replies."""

    def __init__(self, every):
        self.every, self.rng, self.process, self.due = every, random.Random(0), None, every
        self.kinds = [Fault("status", 500), Fault("status", 529), Fault("status", 429, "0.01"), Fault("reset")]
        self.kinds.append(Fault("cut"))

    def watch(self, process, num_paid):
        self.process, self.due = process, num_paid + self.every

    def fault(self, number, prompt):
        if self.server.num_answered >= self.due:
            self.process.kill()  # in the server's thread, so that no reply goes out meanwhile
        return self.rng.choice(self.kinds) if self.rng.random() < 0.1 else None


@pytest.mark.slow
def test_killed_again_and_again_it_ends_complete_and_pays_once(tmp_path):
    """2,000 rows, one transient fault in ten, kill -9 after every 300 replies.

    What a kill may lose are replies that the process had not stored: as many as it has under way, no more.
    """
    killer, losses = Killer(300), []
    output = tmp_path / "rows.jsonl"
    with FakeServer(lambda r: Reply("ok", f"reply to {r.prompt}"), latency=0.005, fault=killer.fault) as server:
        killer.server = server
        while True:
            prompts = kept_prompts(tmp_path / "s")
            begin = len(server.exchanges)
            process = start(server, tmp_path, output)
            killer.watch(process, server.num_answered)
            _, errors = process.communicate()
            assert process.returncode in (0, -9), errors.decode()
            while server.in_flight:
                time.sleep(0.005)
            items = server.exchanges[begin:]
            assert not prompts & {one.prompt for one in items}, "a stored reply was requested again"
            if process.returncode == 0:
                break
            losses.append({one.prompt for one in items if one.status == 200} - kept_prompts(tmp_path / "s"))
            assert len(losses[-1]) <= CONCURRENCY
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        counts = collections.Counter(one.prompt for one in server.exchanges if one.status == 200)
    assert rows == [{"x": str(i), "status": "ok", "value": f"reply to Row {i}"} for i in range(2000)]
    assert len(losses) == 6  # 6 x (300 + 16) < 2000 <= 7 x 300
    assert set(counts) == {f"Row {i}" for i in range(2000)}
    repeated = sum(map(len, losses))
    assert counts.total() == 2000 + repeated  # so nothing but these was paid for twice
    print(f"{len(losses)} kills; {repeated} of {counts.total()} replies were on their way and asked for again")


@pytest.mark.slow
def test_two_processes_on_one_store_pay_once(tmp_path):
    with FakeServer(lambda r: Reply("ok", f"reply to {r.prompt}"), latency=0.005) as server:
        ranges = [(0, 400), (100, 500), (0, 500)]
        processes = [start(server, tmp_path, tmp_path / f"{i}.jsonl", *r) for i, r in enumerate(ranges)]
        errors = [process.communicate()[1].decode() for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], errors
        counts = collections.Counter(item.prompt for item in server.exchanges)
    assert counts == {f"Row {i}": 1 for i in range(500)}
    for i, (first, last) in enumerate(ranges):
        rows = [json.loads(line) for line in (tmp_path / f"{i}.jsonl").read_text().splitlines()]
        assert [row["x"] for row in rows] == [str(n) for n in range(first, last)]
        assert {row["status"] for row in rows} == {"ok"}


def test_the_claim_of_a_process_killed_meanwhile_falls(tmp_path):
    """Another process is asking; it dies; this one stops waiting and asks itself."""
    code = f"""
import time
from lc_jax.llm.store import Store, key
from lc_jax.types import Request
s = Store({str(tmp_path / "s")!r}); print(s.claim(key("echo/test", Request("a", 0.2, 9))), flush=True); time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    echo, got = Echo(), []
    thread = threading.Thread(target=lambda: got.extend(texts(Session(echo, Store(tmp_path / "s")), "a", "b")))
    thread.start()
    time.sleep(0.6)
    assert echo.prompts == ["b"]
    process.kill()
    process.communicate()
    thread.join(timeout=10)
    assert got == ["A", "B"]
    assert echo.prompts == ["b", "a"]


def test_equal_requests_side_by_side_are_paid_once_and_a_failure_is_asked_again(tmp_path):
    class Slow(Echo):
        async def ask(self, request):
            await asyncio.sleep(0.01)
            return await super().ask(request)

    echo = Slow()
    started = time.monotonic()
    assert texts(Session(echo, Store(tmp_path / "s")), *["a", "bad"] * 3) == ["A", ""] * 3
    assert time.monotonic() - started < 0.5
    assert sorted(echo.prompts) == ["a", "bad", "bad", "bad"]
