"""python -m lc_jax.llm list | export | prune STORE: shows, copies out or forgets the replies in a store."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lc_jax.llm import capabilities
from lc_jax.llm.store import Store


def main(argv: Sequence[str]) -> None:
    """Runs one command; a store that does not exist ends it with a message."""
    parser = argparse.ArgumentParser(prog="python -m lc_jax.llm", description=__doc__)
    parser.add_argument("command", choices=["list", "export", "prune"])
    parser.add_argument("store", type=Path)
    parser.add_argument("--model", default="", help='only replies of this annotator ("provider/model")')
    parser.add_argument("--output", type=Path, default=Path("/dev/stdout"), help="of export: a JSONL file")
    parser.add_argument("--older_than", type=float, default=0.0, help="of prune: only replies older than so many days")
    args = parser.parse_args(argv)
    if not args.store.is_file():
        sys.exit(f"error: {args.store}: no such store")
    store = Store(args.store)
    if args.command == "list":
        for model, (count, usage) in store.usage().items():
            able = capabilities.of(model)
            dollars = f"${able.price.of(usage):.4f}" if able and able.price else "price unknown"
            print(f"{model}: {count} replies, {usage.input_tokens} + {usage.output_tokens} tokens, {dollars}")
    elif args.command == "export":
        with args.output.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in store.rows(args.model))
    else:
        print(f"{store.prune(args.model, time.time() - args.older_than * 86_400)} replies forgotten")


if __name__ == "__main__":
    main(sys.argv[1:])
