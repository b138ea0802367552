"""A process for the tests of the store: asks a server for many rows and writes them in order, until it is killed.

python -m tests.llm.worker URL STORE OUTPUT FIRST LAST
"""

from __future__ import annotations

import sys
from pathlib import Path

from lc_jax import llm
from lc_jax.data import jsonl
from lc_jax.llm.session import Session
from lc_jax.llm.store import Store
from lc_jax.prompts import Prompt
from tests.llm.asking import annotate

CONCURRENCY = 16


def main(url: str, store: str, output: str, first: str, last: str) -> None:
    path = Path(output)
    done = len(jsonl.truncate_partial_line(path))
    provider = llm.load("openai/gpt-4.1", base_url=url, concurrency=CONCURRENCY, first_wait=0.01, longest_wait=0.05)
    rows = [{"x": str(i)} for i in range(int(first) + done, int(last))]
    remaining = iter(rows)

    def write(annotation):
        jsonl.append_jsonl(path, [{"x": next(remaining)["x"], "status": annotation.status, "value": annotation.value}])

    annotate(Session(provider, Store(store)), Prompt("Row {x}"), rows, each=write)


if __name__ == "__main__":
    main(*sys.argv[1:])
