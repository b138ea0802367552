"""Every text that a model or an annotator is asked, each beside the parser of its replies.

One module per question to an annotator, each with its PROMPT: query, paragraph, summarize, extract, forecast,
equivalence, correctness; for biographies biography, claims, confidence, support. in_context is for base models; what
the fine-tuned ones are asked stands in files, see `load_templates`.
A folder of files under the published names takes the place of any of them: `published`.
"""

from lc_jax.prompts.answer_list import NO_ANSWER, join_answers, postprocess_answers
from lc_jax.prompts.models import Templates, load_templates
from lc_jax.prompts.prompt import Invalid, Prompt, Truncated

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
