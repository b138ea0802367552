"""Do passages of an encyclopedia support a claim about an entity? (paper section 6, after FActScore)"""

from __future__ import annotations

from collections.abc import Mapping

from lc_jax.prompts.objects import labelled, schema, stated
from lc_jax.prompts.prompt import Invalid, Prompt, read_template

_VERDICTS = {"supported": True, "true": True, "yes": True, "not supported": False, "false": False, "no": False}


def _parse(reply: str, fields: Mapping[str, str]) -> bool:
    """Whether the claim is supported."""
    value = stated(reply)
    text = labelled(str(value), "verdict|final answer").split("\n\n")[0].strip().removesuffix(".").casefold()
    if text not in _VERDICTS:
        raise Invalid(f"neither Supported nor Not supported: {text[:60]!r}")
    return _VERDICTS[text]


PROMPT = Prompt(read_template("support"), _parse, schema("supported", {"type": "boolean"}))
