"""The examples that a prompt shows, taken out of its text."""

from lc_jax.prompts import Prompt


def examples(prompt, separator="\n\n---\n\n"):
    """Returns the fields and the reply of each example between a prompt's instructions and its request."""
    parts = prompt.template.split(separator)
    example = Prompt(parts[-1] + " {reply}")
    pairs = [example.match(text) for text in parts[1:-1]]
    return [(fields, fields.pop("reply")) for fields in pairs]
