"""The questions to models and annotators: one module per question, with its PROMPT and the parser of its replies.

The texts, with their examples, are `templates/*.txt`: a file is what the model reads, before its placeholders are
filled. Questions about paragraphs: query, paragraph, summarize, extract, forecast, equivalence, correctness; about
biographies: biography, claims, confidence, support; for base models: in_context. The prompts of fine-tuned models are
`load_templates`. A user's folder of files under the published names replaces any of them: `published`.
"""

from lc_jax.prompts.models import Templates, load_templates
from lc_jax.prompts.parsing import NO_ANSWER, Invalid, Truncated, join_answers, postprocess_answers
from lc_jax.prompts.prompt import Prompt

__all__ = [
    "NO_ANSWER",
    "Invalid",
    "Prompt",
    "Templates",
    "Truncated",
    "join_answers",
    "load_templates",
    "postprocess_answers",
]
