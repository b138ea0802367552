"""Builds the knowledge store that biographies are checked against, from rows of title and text (paper section 6).

The same command resumes a build that was stopped.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from lc_jax.data import knowledge

RECORD = "{output}.run.json"


def needs_devices(config: ConfigDict) -> bool:
    """Returns False: nothing here runs on a device."""
    return False


def run(config: ConfigDict, mesh: Any) -> None:
    """Makes `config.output` from `config.source`.

    Raises:
      FileNotFoundError, ValueError: see `knowledge.build`.
    """
    counts = knowledge.build(config.source, config.output, passage_words=config.passage_words)
    print(f"{config.output}: " + ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())))
