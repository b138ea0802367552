"""What a model is asked for when it shall write a biography (paper section 6)."""

from lc_jax.prompts.prompt import Prompt

PROMPT = Prompt("Write a paragraph bio about {entity}.")
