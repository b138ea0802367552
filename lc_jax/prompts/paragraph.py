"""The annotator writes the paragraph itself: training data of Claude Distill, and API models under evaluation."""

from lc_jax.prompts.objects import schema
from lc_jax.prompts.prompt import Prompt, read_template
from lc_jax.prompts.summarize import one_paragraph

PROMPT = Prompt(read_template("paragraph"), one_paragraph, schema("paragraph", {"type": "string"}))
