from __future__ import annotations

import asyncio
import re

import pytest

from lc_jax.llm import capabilities, cost
from lc_jax.llm.capabilities import Price
from lc_jax.llm.cost import BudgetError, Meter, TaskCost
from lc_jax.llm.session import Session, open_annotator, progress
from lc_jax.llm.store import Store
from lc_jax.prompts import Prompt
from lc_jax.types import Reply, Request, Usage
from tests.llm.asking import Scripted, annotate, ask
from tests.llm.fake_server import KEY, FakeServer

HAIKU = "anthropic/claude-haiku-4-5"  # $1 and $5 per million tokens
PROMPT = Prompt("Say {x}")


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def estimate(name, requests, store=None):
    total = TaskCost(name, store)
    for request in requests:
        total.add(request)
    return total.estimate()


def test_prices():
    usage = Usage(1_000_000, 200_000, 600_000)
    assert Price(2.0, 10.0, 0.5).of(usage) == pytest.approx(0.4 * 2 + 0.6 * 0.5 + 0.2 * 10)
    assert Price(2.0, 10.0, 0.5).of(usage, batched=True) == pytest.approx(1.55)


def test_a_dated_name_is_its_family_and_a_longer_name_is_not():
    assert capabilities.of("openai/gpt-5-2025-08-07") == capabilities.of("openai/gpt-5")
    assert capabilities.of("openai/gpt-5-mini").price != capabilities.of("openai/gpt-5").price
    assert capabilities.of("anthropic/claude-opus-5-5").price.output == 20
    assert capabilities.of("openai/gpt-5-turbo") is None
    assert capabilities.of("openai/gpt-4.1-mini-latest").sampling
    assert capabilities.of("simulated/miniature").price.of(Usage(10, 10)) == 0


def test_an_estimate_counts_what_is_not_stored_and_is_an_upper_one(tmp_path):
    rows = [{"x": "y" * 300} for _ in range(2)] + [{"x": f"{i} " * 50} for i in range(8)]
    requests = [Request(PROMPT.render(**row), 0.0, 100) for row in rows]
    assert estimate(HAIKU, requests).calls == 9
    with FakeServer(lambda r: Reply("ok", "a b c")) as server:
        options = {"base_url": server.anthropic_url, "store": tmp_path / "s"}
        with open_annotator(HAIKU, **options) as annotator:
            guess = estimate(HAIKU, requests, annotator.store)
            assert (guess.calls, guess.num_stored, server.num_requests) == (9, 1, 0)
            annotations = annotate(annotator, PROMPT, rows, max_tokens=100)
            assert [a.value for a in annotations] == ["a b c"] * 10
            assert annotator.meter.calls == 9
            assert 0 < annotator.meter.dollars < guess.dollars()
            assert annotator.meter.usage.output_tokens == 9 * 2
            table = cost.render(
                [("test", guess, annotator.meter.dollars), ("next", estimate("openai/x", requests), None)]
            )
            assert re.search(r"test .*haiku.* 9 +1 .*\$0\.00", table)
            assert "unknown" in table
            after = estimate(HAIKU, requests, annotator.store)
            assert (after.calls, after.num_stored, after.dollars()) == (0, 10, 0.0)
        with open_annotator(HAIKU, **options) as annotator:  # a rerun costs nothing
            assert [a.value for a in annotate(annotator, PROMPT, rows, max_tokens=100)] == ["a b c"] * 10
            assert (annotator.meter.calls, annotator.meter.dollars) == (0, 0.0)


def test_batch_and_cache_make_an_estimate_lower():
    shots = "An example. " * 500
    requests = [Request(f"{shots}{i}", 0.0, 10) for i in range(10)]
    assert estimate(HAIKU, requests).usage.cached_tokens == 0  # Claude models cache only what is marked
    guess = estimate("openai/gpt-4.1", requests)
    assert guess.usage.cached_tokens == 9 * (len(shots) // 3)
    assert guess.dollars(batch=True) == pytest.approx(guess.dollars() / 2)
    assert guess.dollars(cache=False) == pytest.approx(guess.dollars() + guess.usage.cached_tokens * 1.5e-6)
    assert estimate("openai/gpt-4.1", [Request(f"{i} {shots}", 0.0, 10) for i in range(10)]).usage.cached_tokens == 0
    for one, other in (("", "a"), ("abc", "abd"), ("abc", "abcdef"), ("x", "y"), ("same", "same")):
        shared = cost.shared_prefix(one, other)
        assert one.startswith(shared)
        assert other.startswith(shared)
        assert one[len(shared) : len(shared) + 1] != other[len(shared) : len(shared) + 1] or one == other


def test_requests_that_may_not_fit_are_counted():
    guess = estimate(HAIKU, [Request("short", 0.0, 9), Request("long" * 200_000, 0.0, 9)])
    assert (guess.calls, guess.too_long) == (2, 1)
    assert "1 requests may be longer" in cost.render([("x", guess, None)])


def test_progress_shows_tokens_and_money():
    meter = Meter()
    meter.count(Reply("ok", "x", usage=Usage(1000, 200)), 1.239)
    assert progress(meter) == "1,200 tokens, $1.24"


def test_a_budget_is_never_passed_and_a_larger_one_goes_on(tmp_path):
    rows = [{"x": str(i)} for i in range(300)]
    got = []
    with FakeServer(lambda r: Reply("ok", "word " * 60), latency=0.002) as server:
        options = {"base_url": server.anthropic_url, "store": tmp_path / "s", "concurrency": 16}
        with open_annotator(HAIKU, budget=0.05, **options) as annotator:
            with pytest.raises(BudgetError, match=r"left of the budget of \$0\.05"):
                annotate(annotator, PROMPT, rows, max_tokens=100, each=got.append)
            assert 0.05 - 0.0006 <= annotator.meter.dollars <= 0.05  # all but one reply's worth
            cost, calls = annotator.meter.dollars, annotator.meter.calls
        assert server.num_answered == calls
        with open_annotator(HAIKU, budget=1.0, **options) as annotator:
            annotations = annotate(annotator, PROMPT, rows, max_tokens=100)
            assert {a.status for a in annotations} == {"ok"}
            assert annotator.meter.calls == 300 - calls
            assert annotator.meter.dollars + cost == pytest.approx(300 * (Price(1, 5, 0.1).of(Usage(2, 76))), rel=0.02)
        assert server.num_answered == 300


def test_a_budget_needs_a_price():
    with pytest.raises(ValueError, match="No price of openai/llama"):
        open_annotator("openai/llama", base_url="http://127.0.0.1:1/v1", budget=1.0)
    open_annotator("openai/llama", base_url="http://127.0.0.1:1/v1", budget=1.0, price=(0, 0, 0))
    open_annotator("openai/llama", base_url="http://127.0.0.1:1/v1")


def test_the_simulated_annotator_goes_the_same_way_for_nothing(tmp_path):
    with open_annotator("simulated/miniature", store=tmp_path / "s", budget=0.0) as annotator:
        (reply,) = ask(annotator, [Request("Hi!", 0.0, 9)])
        assert reply.status == "failed"
        assert annotator.meter.statuses == {"failed": 1}
        assert annotator.meter.dollars == 0.0


def test_what_an_unknown_model_takes_is_asked_once(tmp_path):
    with FakeServer(lambda r: Reply("ok", "fine")) as server:
        for number in range(3):
            options = {"base_url": server.openai_url, "store": tmp_path / "s"}
            with open_annotator("openai/plain-llama", **options) as annotator:
                assert ask(annotator, [Request(str(number), 0.0, 9)])[0].text == "fine"
        assert server.num_requests == 3 + 2  # the probe's two attempts
    assert Store(tmp_path / "s").note(f"openai/plain-llama at {server.openai_url}/") == {
        "sampling": True,
        "json_schema": False,
        "hidden_tokens": 0,
    }


def test_reservations_are_given_back_when_a_request_fails():
    def broken(request):
        raise RuntimeError("a mistake")

    session = Session(Scripted(broken), meter=Meter(1.0), price=Price(1, 1, 1))
    with pytest.raises(RuntimeError, match="a mistake"):
        ask(session, [Request("a", 0.0, 9)] * 5)
    assert (session.meter.reserved, session.meter.num_under_way) == (0.0, 0)


def test_a_request_waits_for_the_money_that_those_under_way_do_not_need():
    """Two at their most pass the budget, three as they turn out do not."""

    class Slow(Scripted):
        async def ask(self, request):
            await asyncio.sleep(0.01)
            return await super().ask(request)

    annotator = Slow(lambda request: Reply("ok", "x", usage=Usage(1, 1)))
    session = Session(annotator, meter=Meter(0.06), price=Price(0, 10, 0))  # a reply: $0.042 at most, $0.00001 here
    assert [reply.text for reply in ask(session, [Request(str(i), 0.0, 100) for i in range(3)])] == ["x"] * 3
    assert session.meter.dollars == pytest.approx(3e-5)


def test_a_planted_key_is_in_no_file(tmp_path):
    with (
        FakeServer(lambda r: Reply("ok", "fine")) as server,
        open_annotator(HAIKU, base_url=server.anthropic_url, store=tmp_path / "s") as annotator,
    ):
        annotations = annotate(annotator, PROMPT, [{"x": str(i)} for i in range(5)])
        table = cost.render([("x", estimate(HAIKU, [Request("a", 0.0, 9)]), annotator.meter.dollars)])
        files = [path.read_bytes() for path in tmp_path.iterdir()]
        rows = list(annotator.store.rows())
    assert len(files) >= 2
    assert not [data for data in files if KEY.encode() in data]
    assert KEY not in repr(annotations) + table + repr(rows) + repr(vars(annotator))
