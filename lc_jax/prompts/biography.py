"""The request for a biography (paper section 6)."""

from lc_jax.prompts.prompt import Prompt

PROMPT = Prompt("Write a paragraph bio about {entity}.")
