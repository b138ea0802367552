"""Every text that a model or an annotator is asked, each beside the parser of its replies.

One module per question to an annotator, each with its PROMPT: summarize, extract, forecast, equivalence, correctness,
paragraph. The templates of the fine-tuned models are files: `load_templates`.
"""

from lc_jax.prompts.models import NO_ANSWER, Templates, join_answers, load_templates, postprocess_answers
from lc_jax.prompts.prompt import Invalid, Prompt

__all__ = ["NO_ANSWER", "Invalid", "Prompt", "Templates", "join_answers", "load_templates", "postprocess_answers"]
