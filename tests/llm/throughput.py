"""Measures replies per second and memory of annotators: python -m tests.llm.throughput [COUNT].

The server is another process, speaks https as the vendors do, takes 50 ms for a reply and has 64 requests at a time:
1,280 a second at most. The peer is the vendor's SDK alone, with its default transport: replies are neither stored nor
read. docs/measurements.md has figures.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lc_jax.llm.session import open_annotator
from lc_jax.prompts import Prompt
from tests.llm.asking import annotate
from tests.llm.fake_server import KEY

MODELS = {"anthropic": "anthropic/claude-haiku-4-5", "openai": "openai/gpt-4.1"}


def resident() -> float:
    """Megabytes of memory in use now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measure(annotator: Any, numbers: Iterable[int]) -> dict[str, float]:
    """Rate and memory of annotating a stream of rows."""
    wall, processor, count = time.perf_counter(), time.process_time(), 0
    rows = ({"x": f"{'some words ' * 20}{i}"} for i in numbers)

    def check(annotation: Any) -> None:
        nonlocal count
        assert annotation.status == "ok", annotation
        count += 1

    annotate(annotator, Prompt("Say {x}"), rows, each=check)
    return {
        "replies": count,
        "per_second": count / (time.perf_counter() - wall),
        "cpu_ms": 1000 * (time.process_time() - processor) / count,
        "resident_mb": resident(),
    }


async def _sdk_alone(vendor: str, url: str, count: int) -> None:
    waiting = iter(range(count))
    if vendor == "anthropic":
        import anthropic

        client: Any = anthropic.AsyncAnthropic(base_url=url)
        create, length = client.messages.create, "max_tokens"
    else:
        import openai

        client = openai.AsyncOpenAI(base_url=url)
        create, length = client.chat.completions.create, "max_completion_tokens"

    async def worker() -> None:
        for number in waiting:
            text = f"Say {'some words ' * 20}{number}"
            body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], length: 9}
            await create(model=MODELS[vendor].partition("/")[2], **body)

    async with client:
        await asyncio.gather(*(worker() for _ in range(64)))


def peer(vendor: str, url: str, count: int) -> dict[str, float]:
    """Rate of the SDK alone, 64 requests at a time."""
    wall, processor = time.perf_counter(), time.process_time()
    asyncio.run(_sdk_alone(vendor, url, count))
    return {
        "per_second": count / (time.perf_counter() - wall),
        "cpu_ms": 1000 * (time.process_time() - processor) / count,
    }


def _server(folder: str) -> subprocess.Popen[str]:
    """The fake server with a certificate in `folder`, which this process trusts from now on."""
    files = [f"{folder}/cert.pem", f"{folder}/key.pem"]
    command = (
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {files[1]} -out {files[0]} -days 2 -subj /CN=localhost"
    )
    subprocess.run([*command.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    os.environ["SSL_CERT_FILE"] = files[0]
    return subprocess.Popen([sys.executable, "-m", "tests.llm.fake_server", *files], stdout=subprocess.PIPE, text=True)


def main(count: int) -> dict[str, list[dict[str, float]]]:
    """By vendor: the figures of `count` replies, of four times as many, and of the SDK alone."""
    os.environ |= {"ANTHROPIC_API_KEY": KEY, "OPENAI_API_KEY": KEY}
    figures: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, _server(folder) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        for vendor, name in MODELS.items():
            url = f"https://localhost:{port}" + ("/v1" if vendor == "openai" else "")
            with open_annotator(name, base_url=url, store=f"{folder}/{vendor}", concurrency=64) as annotator:
                measure(annotator, range(-64, 0))  # connections are opened, modules loaded
                figures[vendor] = [measure(annotator, range(count)), measure(annotator, range(count, 5 * count))]
            peer(vendor, url, 64)
            figures[vendor].append(peer(vendor, url, count))
        server.terminate()
    return figures


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000), indent=1))
