"""The annotator writes the paragraph itself: training data of Claude Distill, and API models under evaluation."""

from lc_jax.prompts.objects import schema
from lc_jax.prompts.prompt import Prompt
from lc_jax.prompts.summarize import one_paragraph

PROMPT = Prompt(
    """\
{paragraph_generation_prompt}

Reply with that one paragraph of plain prose and nothing else: no heading, no list, no preamble.""",
    one_paragraph,
    schema("paragraph", {"type": "string"}),
)
