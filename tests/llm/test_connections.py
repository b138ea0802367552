"""Servers of other makes, and addresses where none is: old HTTP, refusals of a schema, wrong ports, TLS, proxies."""

import gzip
import json
import logging
import ssl
import subprocess
import threading
import time

import pytest

from lc_jax import llm
from lc_jax.llm import AnnotatorError, api
from lc_jax.llm.addresses import normalise_base_url, proxy_of
from lc_jax.types import Request
from tests.llm import asking
from tests.llm.raw_server import RawServer, http
from tests.llm.test_replies import completion

QUICK = {"first_wait": 0.01, "longest_wait": 0.02, "max_unreachable": 1.0}
SCHEMA = '{"type": "object", "properties": {"answer": {"type": "string"}}}'
REPLY = json.dumps(completion("Danube")).encode()
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(f"{len(part):x};x=1\r\n".encode() + part + b"\r\n" for part in (REPLY[:7], REPLY[7:]))
    + b"0\r\nTrailer: x\r\n\r\n"
)
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
REPLIES = {
    "HTTP/1.0 without a length": (http(REPLY, version="1.0", length=False), False),
    "HTTP/1.0 with a length": (http(REPLY, version="1.0"), False),
    "HTTP/1.0 that keeps the connection": (http(REPLY, version="1.0", headers="Connection: keep-alive\r\n"), True),
    "HTTP/1.1 without a length": (http(REPLY, length=False), False),
    "HTTP/1.1 that closes": (http(REPLY, headers="Connection: Close, x\r\n"), False),
    "HTTP/1.1 that closes without a word": (http(REPLY), False),
    "chunked": (CHUNKED, True),
    "early hints": (EARLY + http(REPLY), True),
    "gzip": (http(gzip.compress(REPLY), headers="Content-Encoding: gzip\r\n"), True),
    "gzip without a length": (http(gzip.compress(REPLY), headers="Content-Encoding: gzip\r\n", length=False), False),
}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(url, number=3, name="openai/llama", **policy):
    requests = [Request(f"Which river? {i}", 0.0, 9, schema=SCHEMA) for i in range(number)]
    return asking.ask(llm.load(name, base_url=url, concurrency=1, **QUICK | policy), requests)


@pytest.mark.parametrize("kind", REPLIES)
def test_every_way_to_end_a_reply(kind):
    reply, keep_open = REPLIES[kind]
    with RawServer(lambda head, body: reply, keep_open=keep_open) as server:
        assert [(reply.status, reply.text) for reply in ask(server.url)] == [("ok", "Danube")] * 3
        assert len(server.heads) == 5  # the greeting, the probe and three requests: none was sent twice
        assert server.num_connections == (1 if keep_open else 5)


REFUSALS = [
    (400, "'response_format.type' must be one of 'text', 'json_object'"),
    (400, "json_schema is not supported by this model"),
    (400, "guided decoding is disabled"),
    (422, "Extra inputs are not permitted: response_format"),
    (500, "failed to parse grammar"),
    (501, "structured output: not implemented"),
]


@pytest.mark.parametrize(("status", "words"), REFUSALS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("from_the_start", [True, False])
def test_servers_that_refuse_a_schema_are_asked_without(status, words, version, from_the_start):
    """Some refuse every schema, which the probe shows; others only those with certain keys, which a request shows."""

    def answer(head, body):
        if head.startswith("GET"):
            return http(b'{"detail": "Not Found"}', "404 Not Found", version)
        request = json.loads(body)
        schema = json.dumps(request.get("response_format"))
        if "response_format" in request and (from_the_start or "answer" in schema):
            return http(json.dumps({"error": {"message": words}}).encode(), f"{status} Refused", version)
        return http(REPLY, version=version)

    with RawServer(answer, keep_open=version == "1.1") as server:
        assert [reply.text for reply in ask(server.url)] == ["Danube"] * 3
        assert len(server.heads) == 1 + (2 if from_the_start else 1) + 3 + (not from_the_start)


def test_another_400_is_no_refusal_of_the_schema():
    def answer(head, body):
        return (
            http(REPLY)
            if b"Reply with" in body or head.startswith("GET")
            else http(b'{"error": {"message": "prompt is too long"}}', "400 Bad Request")
        )

    with RawServer(answer) as server:
        (reply,) = ask(server.url, 1)
    assert reply.status == "failed"
    assert "prompt is too long" in reply.detail


def refused(url, **policy):
    started = time.monotonic()
    with pytest.raises(AnnotatorError) as caught:
        ask(url, 1, **policy)
    assert time.monotonic() - started < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


def free_port():
    with RawServer(lambda head, body: None) as server:
        return server.port


def test_a_wrong_port_is_told_within_seconds_with_every_retry(caplog):
    caplog.set_level(logging.WARNING)
    url = f"http://127.0.0.1:{free_port()}/v1"
    message = refused(url, first_wait=0.2, longest_wait=60.0)
    assert f"openai/llama: no connection to {url}: [Errno 111]" in message
    assert "--config.annotator.base_url=URL" in message
    lines = [record.getMessage() for record in caplog.records if "attempt 1 of 10" in record.getMessage()]
    assert len(lines) == 1
    assert url in lines[0]
    assert " the next in 0." in lines[0]


def test_hosts_that_do_not_exist_or_do_not_answer(monkeypatch):
    message = refused("http://no-such-host.invalid:8000/v1", max_unreachable=0.1)
    assert "no connection to http://no-such-host.invalid:8000/v1: [Errno" in message
    monkeypatch.setattr(api, "CONNECT_TIMEOUT", 0.2)
    with RawServer(lambda head, body: None) as server:
        server.socket.listen(0)

    async def never(*args, **options):
        import asyncio

        await asyncio.sleep(60)

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", never)
    assert "it did not answer within 0.2 s" in refused("http://10.255.255.1:8000/v1")


def test_a_server_that_closes_every_connection():
    with RawServer(lambda head, body: None) as server:
        assert "has an address with https://" in refused(server.url)


def test_pages_and_other_json_are_told_at_the_start():
    for body, words in (
        (b"<html>\n<title>Open WebUI</title>", "sent no JSON but '<html> <title>"),
        (b'{"error": "no"}', "no"),
    ):
        with RawServer(lambda head, request, body=body: http(body)) as server:
            message = refused(server.url)
        assert words in message
        assert f"127.0.0.1:{server.port}" in message


@pytest.mark.parametrize("knows_its_models", [False, True])
def test_a_server_that_never_answers_is_asked_three_times_and_named(caplog, knows_its_models):
    caplog.set_level(logging.WARNING)
    end = threading.Event()

    def answer(head, body):
        if knows_its_models and (head.startswith("GET") or b"Reply with" in body):
            return http(REPLY)
        end.wait(10)
        return None

    with RawServer(answer, keep_open=True) as server:  # a connection that it closes would be another failure
        place = f"openai/llama at {server.url}: no reply within 0.2 s"
        if knows_its_models:  # from the first request on it hangs
            (reply,) = ask(server.url, 1, deadline=0.2)
            assert (reply.status, reply.detail) == ("failed", f"3 attempts, the last: {place}")
        else:
            assert refused(server.url, deadline=0.2).startswith(f"{place} (3 attempts)")
        end.set()
    lines = [record.getMessage() for record in caplog.records if "attempt" in record.getMessage()]
    assert lines[0].startswith(f"{place}; attempt 1 of 3, the next in ")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    try:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_tls_where_there_is_none_and_the_other_way_round(certificate):
    with RawServer(lambda head, body: http(REPLY)) as server:
        assert "has an address with http://" in refused(server.url.replace("http:", "https:"))
    with RawServer(lambda head, body: http(REPLY), tls=certificate) as server:
        assert "has an address with https://" in refused(server.url)
        assert "SSL_CERT_FILE" in refused(server.url.replace("http:", "https:"))


def test_proxies(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")  # of a kind that the SDKs' client does not know
    with RawServer(lambda head, body: http(REPLY)) as server:
        assert ask(server.url, 1)[0].text == "Danube"  # this machine is reached without
    assert "HTTPS_PROXY or ALL_PROXY cannot be used" in refused("https://example.invalid/v1")
    monkeypatch.delenv("ALL_PROXY")
    port = free_port()
    monkeypatch.setenv("https_proxy", f"http://user:secret@127.0.0.1:{port}")
    message = refused("https://example.invalid/v1")
    assert f"through the proxy http://127.0.0.1:{port}" in message
    assert "secret" not in message
    with RawServer(lambda head, body: http(REPLY)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        assert ask("http://example.invalid:8000/v1", 1)[0].text == "Danube"
        assert proxy.heads[0].startswith("GET http://example.invalid:8000/v1/models ")
        monkeypatch.setenv("no_proxy", "example.invalid")
        assert proxy_of("http://example.invalid:8000/v1") == ""


@pytest.mark.parametrize(
    ("address", "read"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        (" http://localhost:8000 ", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("https://openrouter.ai/api/v1/chat/completions/", "https://openrouter.ai/api/v1"),
        ("https://host/openai/deployments/x", "https://host/openai/deployments/x"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_addresses_as_people_write_them(address, read):
    assert llm.load("openai/llama", base_url=address).base_url == read


def test_addresses_of_anthropic_have_no_version():
    for address in ("http://localhost:8000", "http://localhost:8000/v1", "http://localhost:8000/v1/messages/"):
        assert llm.load("anthropic/claude-haiku-4-5", base_url=address).base_url == "http://localhost:8000"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000/v1", "has no scheme: write http://localhost:8000/v1"),
        ("ftp://localhost/v1", "is no address of a server: write it as http://localhost:8000/v1"),
        ("http://", "is no address of a server"),
        ("http://localhost:80000/v1", "Port out of range"),
        ("http://localhost:x/v1", "is no address"),
        ("http://localhost:8000/v1?api-version=2", "is no address of a server"),
        ("http://[::1/v1", "Invalid IPv6 URL"),
    ],
)
def test_what_is_no_address_is_refused_with_the_right_form(url, words):
    with pytest.raises(ValueError, match=r"--config\.annotator\.base_url") as caught:
        normalise_base_url(url, ("/chat/completions",), "/v1")
    assert words in str(caught.value)
