"""Build the knowledge store that biographies are checked against: from Wikipedia, or any rows with title and text.

  python -m lc_jax.main --config=configs/build_knowledge.py --config.source=wikipedia.jsonl.gz

`source` is a file (.jsonl, .json, .csv, each also .gz; .parquet), a folder of such files or of WikiExtractor's
(--json), a Cirrus dump, or FActScore's SQLite file. Columns: title, text (or a list of sentences), and
optionally `redirect` (the title that this one leads to) or `redirects` (the titles that lead here). A rerun resumes
a build that was stopped. ":mini" holds the cities of the miniature world.
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
