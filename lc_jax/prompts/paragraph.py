"""The annotator writes the paragraph itself: training data of Claude Distill, and API models under evaluation."""

from lc_jax.prompts.parsing import one_paragraph
from lc_jax.prompts.prompt import Prompt, read_template, schema

PROMPT = Prompt(read_template("paragraph"), one_paragraph, schema("paragraph", {"type": "string"}))
