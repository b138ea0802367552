"""Replies in every shape that servers send: read, or a failed reply with one line of detail; never another error."""

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lc_jax import llm
from lc_jax.llm import anthropic, openai
from lc_jax.llm.replies import Malformed
from lc_jax.prompts import equivalence, extract, forecast
from lc_jax.types import Reply, Request, Usage
from tests.llm.asking import ask
from tests.llm.raw_server import RawServer, http

CASES = Path(__file__).resolve().parents[1] / "cases" / "23"
ONE = {"comparisons": equivalence.join_comparisons([equivalence.Comparison("Which river?", "Danube", "the Danube")])}
FAST = {"first_wait": 0.01, "longest_wait": 0.02, "attempts": 3}


def completion(content, finish="stop", **message):
    """A chat completion of three and four tokens."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}


def message(*blocks, stop="end_turn"):
    return {"content": list(blocks), "stop_reason": stop, "usage": {"input_tokens": 3, "output_tokens": 4}}


@pytest.mark.parametrize("name", ["think-block", "content-parts"])
def test_recorded_replies_of_reasoning_models(name):
    recorded = json.loads((CASES / f"{name}.json").read_text())
    replies = {step: openai.read(body) for step, body in recorded.items()}
    assert {reply.status for reply in replies.values()} == {"ok"}
    assert {reply.usage for reply in replies.values()} == {Usage(10, 5)}
    assert extract.PROMPT.parse(replies["extract"].text) == ["Danube"]
    assert forecast.PROMPT.parse(replies["forecast"].text) == 0.8
    assert equivalence.PROMPT.parse(replies["equivalence"].text, ONE) == [True]


THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Sava?"}]}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (completion("Danube"), "ok", "Danube"),
        (completion("Danube", finish=None), "ok", "Danube"),
        (completion("Danube", reasoning_content="Sava?"), "ok", "Danube"),
        (completion([THINKING, {"type": "text", "text": "Dan"}, {"type": "text", "text": "ube"}]), "ok", "Danube"),
        (completion([{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "Danube"}]), "ok", "Danube"),
        (completion(["Danube"]), "ok", "Danube"),
        (completion({"type": "text", "text": "Danube"}), "ok", "Danube"),
        (completion(None), "invalid", ""),
        (completion([]), "invalid", ""),
        (completion([THINKING]), "invalid", ""),
        (completion("", reasoning_content="Sava?"), "invalid", ""),
        (completion(None, reasoning="Sava?", finish="length"), "truncated", ""),
        (completion(None, tool_calls=[{"id": "1"}], finish="tool_calls"), "invalid", ""),
        (completion("", refusal="I cannot."), "refused", ""),
        (completion("Dan", finish="content_filter"), "refused", "Dan"),
        (completion("Dan", finish="length"), "truncated", "Dan"),
    ],
)
def test_chat_completions(body, status, text):
    reply = openai.read(body)
    assert (reply.status, reply.text, reply.usage) == (status, text, Usage(3, 4))
    assert bool(reply.detail) == (status != "ok")


def test_why_a_chat_completion_holds_no_text():
    assert "tools" in openai.read(completion(None, tool_calls=[{"id": "1"}])).detail
    assert "reasoning and no answer" in openai.read(completion("", reasoning="Sava?")).detail
    assert openai.read({"choices": [{"message": {"content": "x"}}], "usage": None}).usage == Usage()
    assert openai.read({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "7"}}).usage == Usage()


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (message({"type": "text", "text": "Danube"}), "ok", "Danube"),
        (
            message({"type": "thinking", "thinking": "Sava?", "signature": "s"}, {"type": "text", "text": "Danube"}),
            "ok",
            "Danube",
        ),
        (message({"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Danube"}), "ok", "Danube"),
        (message({"type": "text", "text": "Dan"}, {"type": "text", "text": "ube"}), "ok", "Danube"),
        (message({"type": "tool_use", "id": "1", "input": {}}), "invalid", ""),
        (message(), "invalid", ""),
        (message({"type": "thinking", "thinking": "Sava?"}, stop="max_tokens"), "truncated", ""),
        (message(stop="refusal"), "refused", ""),
    ],
)
def test_messages(body, status, text):
    reply = anthropic.read(body)
    assert (reply.status, reply.text, reply.usage) == (status, text, Usage(3, 4))


MALFORMED = [
    7,
    None,
    "text",
    [],
    [1],
    {},
    {"choices": []},
    {"choices": None},
    {"choices": [{}]},
    {"choices": [{"message": None}]},
    {"choices": [{"message": "x"}]},
    {"choices": [{"text": "an older endpoint's"}]},
    {"choices": {"0": 1}},
    {"content": 3, "usage": {}},
    {"content": [3]},
    {"error": {"message": "the model\nis loading"}},
    {"error": "loading"},
    completion(7),
    completion([7]),
]


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("read", [openai.read, anthropic.read])
def test_json_of_another_shape_is_malformed_in_one_line(read, body):
    with pytest.raises(Malformed) as caught:
        read(body)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    if isinstance(body, dict) and "error" in body:
        assert "loading" in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES = ("choices", "message", "content", "finish_reason", "usage", "type", "text", "error", "stop_reason", "refusal")
NAMED = st.recursive(JSON, lambda inner: st.dictionaries(st.sampled_from(NAMES), inner | st.lists(inner, max_size=2)))


@settings(max_examples=60, deadline=None)
@given(NAMED, st.booleans())
def test_any_json_is_a_reply_or_malformed(body, nested):
    for read, wrapped in (
        (openai.read, {"choices": [{"message": body}], "usage": body}),
        (anthropic.read, {"content": body}),
    ):
        try:
            reply = read(wrapped if nested else body)
        except Malformed:
            continue
        assert isinstance(reply, Reply)
        assert isinstance(reply.text, str)


PAGE = b"<!DOCTYPE html>\n<html><head><title>Open WebUI</title></head></html>"
BAD_BODIES = {
    "page": PAGE,
    "cut": json.dumps(completion("Danube")).encode()[:60],
    "integer": b"7",
    "error": b'{"error": {"message": "upstream failed"}}',
    "empty": b"",
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("kind", BAD_BODIES)
def test_a_malformed_body_is_a_failed_reply_with_one_line(kind, monkeypatch):
    """The server speaks well when it is greeted, and badly afterwards."""

    def answer(head, body):
        return http(b'{"data": []}' if head.startswith("GET") else BAD_BODIES[kind])

    monkeypatch.setenv("OPENAI_API_KEY", "k")
    with RawServer(answer) as server:
        annotator = llm.load("openai/gpt-4.1", base_url=server.url, **FAST)
        (reply,) = ask(annotator, [Request("Which river?", 0.0, 9)])
    assert reply.status == "failed"
    assert "\n" not in reply.detail
    assert reply.detail.startswith("3 attempts, the last: openai/gpt-4.1 at http://127.0.0.1:")


def test_an_error_under_status_200_keeps_its_meaning(monkeypatch):
    """Routers send the error of the upstream server under status 200, with its code in the body."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    sent = []

    def answer(head, body):
        if head.startswith("GET"):
            return http(b'{"data": []}')
        sent.append(1)
        busy = {"error": {"message": "slow down", "code": 429}}
        return http(json.dumps(busy if len(sent) == 1 else completion("Danube")).encode())

    with RawServer(answer) as server:
        annotator = llm.load("openai/gpt-4.1", base_url=server.url, **FAST)
        assert [reply.text for reply in ask(annotator, [Request("Which river?", 0.0, 9)])] == ["Danube"]
        bad = lambda head, body: http(b'{"error": {"message": "no such model", "code": 404}}')  # noqa: E731
        server.answer = bad
        with pytest.raises(llm.AnnotatorError, match="no such model"):
            ask(annotator, [Request("Which river?", 0.0, 9)])


def test_room_for_reasoning_is_found_out(monkeypatch):
    """A server's model that reasons gets room for it: the probe shows it, or a reply that was cut off."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    limits = []

    def answer(head, body):
        if head.startswith("GET"):
            return http(b'{"data": []}')
        request = json.loads(body)
        most = request["max_tokens"]
        is_probe = "true" in request["messages"][0]["content"]
        limits.append(most)
        if is_probe and probe_is_terse:
            return http(json.dumps(completion('{"ok": true}')).encode())
        cut = (
            {"content": "<think>\nOkay", "finish": "length"}
            if most < 1000
            else {"content": "<think>\nOkay</think>\n\n0.8"}
        )
        return http(json.dumps(completion(**cut)).encode())

    for probe_is_terse, sent in ((False, [16, 4096 + 9]), (True, [16, 9, 4096 + 9])):
        limits.clear()
        with RawServer(answer) as server:
            annotator = llm.load("openai/qwq", base_url=server.url, **FAST)
            (reply,) = ask(annotator, [Request("How probable?", 0.0, 9)])
        assert (reply.status, forecast.PROMPT.parse(reply.text)) == ("ok", 0.8)
        assert limits == sent
        assert reply.usage == (Usage(6, 8) if probe_is_terse else Usage(3, 4))  # both replies were paid for
