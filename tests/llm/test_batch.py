from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lc_jax.llm import batch
from lc_jax.llm import session as sessions
from lc_jax.llm.store import key
from lc_jax.types import Reply, Request
from tests.llm.asking import ask
from tests.llm.fake_server import KEY, FakeServer

MODELS = {"anthropic": "anthropic/claude-haiku-4-5", "openai": "openai/gpt-4.1"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batch, "POLL", 0.05)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(params=MODELS)
def vendor(request):
    return request.param


def echo(request):
    return Reply("ok", f"echo {request.prompt}")


def opened(server, vendor, tmp_path, **options):
    url = server.anthropic_url if vendor == "anthropic" else server.openai_url
    settings = {"store": tmp_path / "s", "batch": True, "base_url": url, "first_wait": 0.01, "longest_wait": 0.05}
    return sessions.open_annotator(MODELS[vendor], **settings | options)


def requests(count):
    return [Request(f"r{i}", 0.2, 9) for i in range(count)]


def endpoint(server, vendor):
    return server.vendors[0 if vendor == "anthropic" else 1]


def custom_id(vendor, number):
    return key(MODELS[vendor], Request(f"r{number}", 0.2, 9))


def texts(annotator, count):
    return [reply.text for reply in ask(annotator, requests(count))]


def test_replies_come_in_any_order_at_half_the_price(vendor, tmp_path):
    with FakeServer(echo, batch_delay=0.2) as server:
        with opened(server, vendor, tmp_path) as annotator:
            assert texts(annotator, 20) == [f"echo r{i}" for i in range(20)]
            batched = annotator.meter.dollars
            assert texts(annotator, 20) == [f"echo r{i}" for i in range(20)]  # for nothing
        with opened(server, vendor, tmp_path, batch=False, store=tmp_path / "other") as annotator:
            texts(annotator, 20)
            assert annotator.meter.dollars == pytest.approx(2 * batched)
        assert len(endpoint(server, vendor).jobs) == 1


def test_only_what_expired_or_broke_is_submitted_again(vendor, tmp_path):
    with FakeServer(echo) as server:
        spoilt = endpoint(server, vendor).spoil
        spoilt |= {custom_id(vendor, 3): "expired", custom_id(vendor, 5): "expired"}
        original = endpoint(server, vendor).submit

        def submit(*args):
            if endpoint(server, vendor).jobs:
                spoilt.pop(custom_id(vendor, 3), None)
            return original(*args)

        endpoint(server, vendor).submit = submit
        with opened(server, vendor, tmp_path) as annotator:
            replies = ask(annotator, requests(8))
        sizes = [len(job["requests"]) for job in endpoint(server, vendor).jobs.values()]
        assert sizes == [8, 2, 1]
        assert replies[3].text == "echo r3"
        assert replies[5] == Reply("failed", detail="expired in 3 batch jobs")
        assert set(endpoint(server, vendor).num_billed.values()) == {1}


def test_a_job_of_which_nobody_knows_whether_it_started(vendor, tmp_path):
    """The connection breaks after the vendor has started the job: it is found in the vendor's list, not paid twice."""
    with FakeServer(echo) as server:
        path = "/v1/messages/batches" if vendor == "anthropic" else "/v1/batches"
        original, broken = endpoint(server, vendor).route, []

        def route(method, where, headers, body):
            payload = original(method, where, headers, body)
            if (method, where) == ("POST", path) and not broken:
                broken.append(1)
                return b"\x00 nothing that a client could read"
            return payload

        endpoint(server, vendor).route = route
        server.vendors[0].submit([("foreign", {"messages": [{"content": "x"}], "model": "m"})] * 6)
        with opened(server, vendor, tmp_path) as annotator:
            assert texts(annotator, 6) == [f"echo r{i}" for i in range(6)]
        billed = {k: v for k, v in endpoint(server, vendor).num_billed.items() if k != "foreign"}
        assert billed == {custom_id(vendor, i): 1 for i in range(6)}


@pytest.mark.parametrize("moment", ["before", "unsaved", "saved", "results"])
def test_a_crash_at_any_point_resumes_and_pays_once(vendor, moment, tmp_path):
    code = f"""
import os, sys
from lc_jax.llm import batch, session, store
from lc_jax.types import Request
def crash(*args, **kwargs): os._exit(9)
moment = {moment!r}
save = store.Store.save_job
def saving(self, job, owner=None):
    if moment == "unsaved" and job.id: crash()
    save(self, job, owner)
    if (moment == "before" and not job.id) or (moment == "saved" and job.id): crash()
store.Store.save_job = saving
if moment == "results": store.Store.put = crash
with session.open_annotator({MODELS[vendor]!r}, store=sys.argv[1], batch=True, base_url=sys.argv[2]) as annotator:
    annotator.map_all(annotator.ask, [Request(f"r{{i}}", 0.2, 9) for i in range(10)])
"""
    with FakeServer(echo, batch_delay=0.1 if moment == "results" else 0.6) as server:
        url = server.anthropic_url if vendor == "anthropic" else server.openai_url
        code = code.replace("import os, sys", "import os, sys; from lc_jax.llm import batch; "
                            "batch.POLL = 0.05")  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s"), url], check=False)
        assert done.returncode == 9
        with opened(server, vendor, tmp_path) as annotator:
            assert texts(annotator, 12) == [f"echo r{i}" for i in range(12)]
            assert annotator.store.abandoned_jobs(MODELS[vendor]) == []
        assert endpoint(server, vendor).num_billed == {custom_id(vendor, i): 1 for i in range(12)}
        jobs = [len(job["requests"]) for job in endpoint(server, vendor).jobs.values()]
        assert jobs == ([12] if moment == "before" else [10, 2])


def test_jobs_can_be_cancelled_and_abandoned_ones_are_taken_over(vendor, tmp_path):
    with FakeServer(echo, batch_delay=3600) as server, opened(server, vendor, tmp_path) as annotator:
        name = MODELS[vendor]
        vendors = annotator.annotator.endpoint
        job = batch.Job("lc-jax-1", name, {custom_id(vendor, 0): requests(1)[0]}, "", time.time())
        annotator.store.save_job(job)
        annotator.run(batch.submit(annotator.store, vendors, job))
        assert annotator.run(batch.cancel(annotator.store, vendors)) == ["batch_0"]
        assert endpoint(server, vendor).jobs["batch_0"]["cancelled"]


def test_batches_need_a_store_and_a_vendor(tmp_path):
    for name, store in (("simulated/miniature", tmp_path / "s"), ("openai/gpt-4.1", "")):
        with pytest.raises(ValueError, match="batch jobs need a store"):
            sessions.open_annotator(name, store=store, batch=True)
