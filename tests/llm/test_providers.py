"""Both vendors' SDKs against the fake server, with every fault that it knows."""

from __future__ import annotations

import json
import logging
import time
from email.utils import formatdate

import pytest

from lc_jax import llm
from lc_jax.llm import AnnotatorError, api
from lc_jax.llm.concurrency import gather
from lc_jax.llm.session import Session
from lc_jax.llm.store import Store
from lc_jax.types import Reply, Request, Usage
from tests.llm import asking
from tests.llm.fake_server import KEY, FakeServer, Fault

FAST = {"first_wait": 0.01, "longest_wait": 0.05, "attempts": 6}
MODELS = {"anthropic": "anthropic/claude-haiku-4-5", "openai": "openai/gpt-4.1-mini"}
SCHEMA = '{"type": "object", "properties": {"answer": {"type": "string"}}}'


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(params=MODELS)
def vendor(request):
    return request.param


def load(server, name, **policy):
    url = server.anthropic_url if name.startswith("anthropic") else server.openai_url
    return llm.load(name, base_url=url, **FAST | policy)


def echo(request):
    return Reply("ok", f"echo {request.prompt}")


def ask(annotator, *prompts, **settings):
    requests = [Request(prompt, settings.get("temperature", 0.3), 40, schema=SCHEMA) for prompt in prompts]
    return asking.ask(annotator, requests)


def only(*kinds):
    """The first requests fail, one fault after another."""
    return lambda number, prompt: kinds[number] if number < len(kinds) else None


def test_replies_and_their_cost(vendor):
    with FakeServer(echo) as server:
        replies = ask(load(server, MODELS[vendor]), "one {x}", 'two "\u202e🚁\x00')
    assert [reply.text for reply in replies] == ["echo one {x}", 'echo two "\u202e🚁\x00']
    assert replies[0] == Reply("ok", "echo one {x}", "", Usage(len("one {x}") // 4 + 1, len("echo one {x}") // 4 + 1))


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("anthropic/claude-haiku-4-5", {"max_tokens": 40, "temperature": 0.3, "thinking": {"type": "disabled"}}),
        ("anthropic/claude-haiku-4-5-20251001", {"max_tokens": 40, "temperature": 0.3}),
        ("anthropic/claude-sonnet-5-5", {"max_tokens": 40, "thinking": {"type": "between_tools"}}),
        ("anthropic/claude-opus-5-5", {"max_tokens": 4136, "thinking": None}),
        ("anthropic/claude-next-9", {"max_tokens": 40, "temperature": None}),
        ("openai/gpt-4.1-mini", {"max_completion_tokens": 40, "temperature": 0.3, "reasoning_effort": None}),
        ("openai/gpt-5.4", {"max_completion_tokens": 40, "temperature": 0.3, "reasoning_effort": "none"}),
        ("openai/gpt-6-luna", {"max_completion_tokens": 4136, "temperature": None, "reasoning_effort": "low"}),
        ("openai/llama-3", {"max_tokens": 40, "temperature": 0.3}),
        ("openai/plain-llama", {"max_tokens": 40, "temperature": 0.3, "response_format": None}),
    ],
)
def test_only_what_the_model_takes_is_sent(name, sent):
    """The server refuses with 400 what the model does not take."""
    with FakeServer(echo) as server:
        annotator = load(server, name)
        assert [reply.status for reply in ask(annotator, "a") + ask(annotator, "b")] == ["ok", "ok"]
        bodies = [item.body for item in server.exchanges if item.prompt in "ab"]
    for body in bodies:
        assert {key: body.get(key) for key in sent} == sent
        structured = body.get("output_config", {}).get("format") or body.get("response_format")
        assert (structured is not None) == ("plain" not in name)
        assert structured is None or json.loads(SCHEMA) in (
            structured.get("schema"),
            structured.get("json_schema", {}).get("schema"),
        )
    probes = [item for item in server.exchanges if item.prompt not in "ab"]
    assert len(probes) == {"openai/llama-3": 1, "openai/plain-llama": 2}.get(name, 0)


@pytest.mark.parametrize(
    ("name", "secret", "message"),
    [
        ("anthropic/claude-haiku-4-5", "wrong-key", r"anthropic/claude-haiku-4-5: .*401"),
        ("anthropic/claude-3-opus-20240229", KEY, "anthropic/claude-3-opus-20240229 is retired"),
        ("anthropic/clod", KEY, "anthropic/clod: .*404"),
        ("anthropic/claude-haiku-4-5", "", "Set ANTHROPIC_API_KEY"),
        ("openai/gpt-4.1", "wrong-key", "openai/gpt-4.1: .*401"),
        ("openai/missing", KEY, "openai/missing: .*404"),
        ("openai/gpt-4.1", "", "OPENAI_API_KEY"),
    ],
)
def test_bad_keys_and_models_stop_before_anything_is_paid(name, secret, message, monkeypatch):
    for variable in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(variable, secret) if secret else monkeypatch.delenv(variable)
    with FakeServer(echo) as server:
        if name.startswith("openai"):  # as if the server were OpenAI's own
            monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
            annotator = llm.load(name, **FAST)
        else:
            annotator = load(server, name)
        with pytest.raises(AnnotatorError, match=message) as caught:
            ask(annotator, *map(str, range(200)))
        assert server.num_answered == server.num_requests == 0
    assert "wrong-key" not in str(caught.value)


TRANSIENT = [Fault("status", s) for s in (500, 502, 503, 504, 529, 408)] + [
    Fault("status", 429, "0.01"),
    Fault("reset"),
    Fault("cut"),
    Fault("garbage"),
    Fault("stall"),
    Fault("trickle"),
]


def test_transient_faults_are_asked_again(vendor):
    with FakeServer(echo, fault=only(*TRANSIENT)) as server:
        prompts = [str(i) for i in range(20)]
        replies = ask(load(server, MODELS[vendor], deadline=0.6, concurrency=20), *prompts)
        assert [reply.text for reply in replies] == [f"echo {prompt}" for prompt in prompts]
        assert server.num_requests == len(prompts) + len(TRANSIENT)


def test_attempts_are_bounded_and_the_run_goes_on(vendor):
    with FakeServer(echo, fault=lambda number, prompt: Fault("status", 503) if prompt == "bad" else None) as server:
        bad, good = ask(load(server, MODELS[vendor]), "bad", "good")
        assert server.num_requests == 7
    assert (bad.status, good.status) == ("failed", "ok")
    assert "6 attempts, the last: " in bad.detail
    assert "503" in bad.detail


def test_what_the_model_does_is_a_status(vendor):
    kinds = ("empty", "refusal", "max_tokens")
    with FakeServer(echo, fault=lambda number, prompt: Fault(prompt) if prompt in kinds else None) as server:
        statuses = [reply.status for reply in ask(load(server, MODELS[vendor]), *kinds)]
        assert server.num_requests == 3
    assert statuses == ["invalid", "refused", "truncated"]


def test_a_bad_request_concerns_no_other(vendor):
    fault = Fault("status", 400, error="prompt is too long")
    with FakeServer(echo, fault=lambda number, prompt: fault if prompt == "long" else None) as server:
        long, short = ask(load(server, MODELS[vendor]), "long", "short")
        assert server.num_requests == 2
    assert (long.status, short.status) == ("failed", "ok")
    assert "too long" in long.detail


@pytest.mark.parametrize("is_date", [False, True])
def test_all_wait_as_long_as_the_server_asks(vendor, is_date):
    date = int(time.time() + 2)  # a date has whole seconds
    wait = formatdate(date, usegmt=True) if is_date else "0.5"
    with FakeServer(echo, fault=only(Fault("status", 429, wait))) as server:
        ask(load(server, MODELS[vendor], concurrency=1), *"abcdef")
        times = [item.time for item in server.exchanges]
        assert server.num_requests == 7
    assert times[1] >= (date - time.time() + time.monotonic() - 0.05 if is_date else times[0] + 0.5)


def test_a_long_wait_or_an_empty_account_ends_the_run_but_keeps_what_came(vendor, tmp_path):
    for fault in (Fault("status", 429, "7200"), Fault("status", 400, error="Your credit balance is too low"),
                  Fault("status", 429, error="You exceeded your current quota: insufficient_quota")):  # fmt: skip
        with FakeServer(echo, latency=0.02, fault=lambda n, p, fault=fault: fault if n == 30 else None) as server:
            store = Store(tmp_path / f"{fault.status}{fault.error[:5]}")
            session = Session(load(server, MODELS[vendor], concurrency=8), store)
            with pytest.raises(AnnotatorError, match=r"7200 s: run again|credit balance|insufficient_quota"):
                asking.ask(session, (Request(str(i), 0.0, 9) for i in range(100_000)))
            assert len(list(store.rows())) == server.num_answered < 60
            store.close()


def test_requests_are_drawn_lazily_and_run_side_by_side(vendor):
    num_requests = 0

    def requests():
        nonlocal num_requests
        for i in range(2000):
            num_requests += 1
            yield Request(f"r{i}", 0.0, 9)

    with FakeServer(echo, latency=0.02) as server:
        num_replies, session = 0, Session(load(server, MODELS[vendor], concurrency=16))

        async def consume():
            nonlocal num_replies
            async for reply in session.map(session.ask, requests()):
                assert reply.status == "ok"
                num_replies += 1
                assert num_requests - num_replies <= 8 * 16

        session.run(consume())
        assert server.max_in_flight == 16
    assert num_replies == 2000


def test_several_requests_of_an_item_share_the_places(vendor):
    with FakeServer(echo, latency=0.01) as server:
        session = Session(load(server, MODELS[vendor], concurrency=4))

        async def item(number):
            return await gather(*(session.ask(Request(f"{number}/{i}", 0.0, 9)) for i in range(5)))

        assert len(session.map_all(item, range(8))) == 8
        assert server.max_in_flight == 4


def test_a_stream_may_be_left_at_any_time(vendor):
    with FakeServer(echo, latency=0.01) as server:
        session = Session(load(server, MODELS[vendor]))

        async def leave():
            async for _ in session.map(session.ask, (Request(str(i), 0.0, 9) for i in range(1000))):
                return

        session.run(leave())
        assert asking.ask(session, [Request("again", 0.0, 9)])[0].text == "echo again"
    assert ask(load(server, MODELS[vendor])) == []


def test_a_preflight_is_tried_again_as_well():
    with FakeServer(echo) as server:
        server.call_fault = lambda call: 529 if len(server.calls) < 3 else 0
        assert ask(load(server, MODELS["anthropic"]), "a")[0].text == "echo a"
        assert server.calls == ["GET /v1/models/claude-haiku-4-5"] * 3


def test_a_server_that_is_not_there(vendor, caplog):
    with FakeServer() as server:
        pass
    started = time.monotonic()
    annotator = load(server, MODELS[vendor], first_wait=1.0, longest_wait=60.0, max_unreachable=1.0)
    with pytest.raises(
        AnnotatorError, match=f"no connection to http://127.0.0.1:{server.port}.*Connect call"
    ) as caught:
        ask(annotator, "a")
    assert time.monotonic() - started < 2
    assert str(caught.value).endswith("Another is named with --config.annotator.base_url=URL.")
    assert "\n" not in str(caught.value)


def test_keys_are_never_shown(vendor, caplog):
    """Even a server that repeats the key in its error does not get it into a reply, a log or an exception."""
    caplog.set_level(logging.DEBUG)
    fault = Fault("status", 503, error=f"bad header {KEY}")
    with FakeServer(
        echo, fault=lambda n, p: fault if p != "end" else Fault("status", 401, error=f"no {KEY}")
    ) as server:
        replies = ask(load(server, MODELS[vendor], attempts=2), "a")
        with pytest.raises(AnnotatorError) as caught:
            ask(load(server, MODELS[vendor]), "end")
    assert "bad header [key]" in replies[0].detail
    assert "no [key]" in str(caught.value)
    assert KEY not in caplog.text + repr(replies) + repr(caught.getrepr(style="long", showlocals=False))


def test_back_off_is_jittered_and_grows():
    policy = api.Policy(first_wait=1.0, longest_wait=60.0)
    for attempt, most in ((0, 1), (3, 8), (9, 60), (40, 60)):
        waits = [policy.back_off(attempt) for _ in range(500)]
        assert max(waits) <= most
        assert min(waits) < 0.1 * most
        assert max(waits) > 0.9 * most
    with pytest.raises(ValueError, match="concurrency >= 1"):
        api.Policy(concurrency=0)


def test_a_store_that_cannot_be_written_ends_the_run(vendor, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    store = Store(tmp_path / "s")
    monkeypatch.setattr(store, "put", full)
    with FakeServer(echo) as server:
        annotator = load(server, MODELS[vendor], concurrency=8)
        with pytest.raises(OSError, match="no space left"):
            asking.ask(Session(annotator, store), (Request(str(i), 0.0, 9) for i in range(100)))
        assert server.num_answered <= 16
