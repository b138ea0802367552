"""Builds the knowledge store of biography evaluation, from Wikipedia or any pages with a title and a text.

  python -m lc_jax.main --config=configs/build_knowledge.py --config.source=wikipedia.jsonl.gz

`source` is a file (JSON Lines, JSON, CSV, TSV or Parquet, also .gz), a folder of such files, WikiExtractor's output
(--json), a Cirrus dump, or FActScore's SQLite file. Columns: `title`, `text` (or a list of sentences), and optionally
`redirect` (the title that this page leads to) or `redirects` (the titles that lead to this page). The same command
resumes an interrupted build. With ":mini", the pages are those of the cities of the miniature world.
"""

from ml_collections import ConfigDict

from configs import base
from lc_jax.data import pages


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("build_knowledge", mode)
    config.source = ""  # pages: a file, a folder or a dump, as above
    config.output = "runs/knowledge.sqlite"  # the store
    config.passage_words = pages.PASSAGE_WORDS  # about the published 256 tokens
    if mode == "mini":
        config.source, config.output = "miniature", f"{base.root()}/knowledge.sqlite"
    return config
