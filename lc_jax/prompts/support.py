"""The check of a claim: whether passages of an encyclopedia support it (paper section 6, after FActScore)."""

from __future__ import annotations

from collections.abc import Mapping

from lc_jax.prompts.parsing import verdict
from lc_jax.prompts.prompt import Prompt, read_template, schema

_VERDICTS = {"supported": True, "true": True, "yes": True, "not supported": False, "false": False, "no": False}


def _parse(reply: str, fields: Mapping[str, str]) -> bool:
    """Returns whether the claim is supported."""
    return verdict(reply, _VERDICTS, "verdict|final answer", "neither Supported nor Not supported")


PROMPT = Prompt(read_template("support"), _parse, schema("supported", {"type": "boolean"}))
