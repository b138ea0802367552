"""A request sent again because its reply could not be parsed, with the reason: the parser's own words."""

from lc_jax.prompts.prompt import Prompt

PROMPT = Prompt(
    """\
{request}

(An earlier reply to this was of no use, since {error}. Reply in exactly the form that is asked for above.)"""
)
