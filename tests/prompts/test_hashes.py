"""The text of every prompt, byte for byte: stored replies are found by it, and results name it by its hash.

A changed text asks every stored question again. Where that is meant, the new hashes are those of the failing test.
"""

import dataclasses
import hashlib

import pytest

from lc_jax.prompts import (
    Prompt,
    biography,
    claims,
    confidence,
    correctness,
    equivalence,
    extract,
    forecast,
    in_context,
    load_templates,
    paragraph,
    query,
    retry,
    strategies,
    summarize,
    support,
)

PROMPTS: dict[str, tuple[Prompt, str]] = {
    "biography": (biography.PROMPT, "e6d488d3e6038258"),
    "claims": (claims.PROMPT, "da8350556a77974d"),
    "clue": (query.CLUE, "959f240e32933995"),
    "confidence": (confidence.PROMPT, "b09224cc6d07c685"),
    "confident_in_context": (in_context.CONFIDENT, "65bb3f22e09421d9"),
    "correctness": (correctness.PROMPT, "9d24f52ab4b1403b"),
    "correctness_reasoning": (correctness.prompt(reasoning=True), "3e638d611ae44ea0"),
    "equivalence": (equivalence.PROMPT, "1c273a8ec621a3f2"),
    "extract": (extract.PROMPT, "b1733596997698be"),
    "extract_reasoning": (extract.prompt(reasoning=True), "1b46159fd3ccc045"),
    "extract_text_order": (extract.prompt(text_order=True), "c8318eef59e48d0e"),
    "extract_text_order_reasoning": (extract.prompt(reasoning=True, text_order=True), "401fa7743ebcabc2"),
    "forecast": (forecast.PROMPT, "c64049358c340165"),
    "forecast_reasoning": (forecast.prompt(reasoning=True), "eb49ae6667cae8b5"),
    "in_context": (in_context.PROMPT, "fd39d660f04e915f"),
    "llama_2_chat": (strategies.LLAMA_2_CHAT, "e30a7d325c7ed0f8"),
    "paragraph": (paragraph.PROMPT, "2399ef3a7621c85c"),
    "query": (query.PROMPT, "1687ec5e059039cb"),
    "retry": (retry.PROMPT, "1581c4dd32dcc90c"),
    "summarize": (summarize.PROMPT, "10cea9bd9ebffe69"),
    "support": (support.PROMPT, "ca38d31120f53767"),
    "uncertainty": (strategies.UNCERTAINTY, "0f98b921f6da730d"),
}
MODELS = {
    "full": {
        "paragraph": "0f61ec543b05fb5f",
        "extract_answers": "94cca0f7ca1ca0de",
        "forecast_probs": "ddb939c0c190a73c",
        "factuality": "b5b1484fba6573ea",
        "critic": "f5df1cf2f4890e4c",
    },
    "short": {
        "paragraph": "c98b7b80e25db030",
        "extract_answers": "8e6cb1dabd9f5a70",
        "forecast_probs": "775f39b124802b08",
        "factuality": "775f39b124802b08",
        "critic": "48f679509ea234a0",
    },
    "chat": {
        "paragraph": "c98b7b80e25db030",
        "extract_answers": "94cca0f7ca1ca0de",
        "forecast_probs": "ddb939c0c190a73c",
        "factuality": "b5b1484fba6573ea",
        "critic": "f5df1cf2f4890e4c",
    },
}


def rendered_hash(prompt):
    """Returns the hash of a prompt whose fields hold their own names, and of the schema of its replies."""
    text = prompt.render(**{name: f"<{name}>" for name in prompt.fields})
    return hashlib.sha256(f"{text}\n{prompt.schema}".encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", PROMPTS)
def test_the_text_of_an_annotators_prompt_has_not_changed(name):
    prompt, expected = PROMPTS[name]
    assert rendered_hash(prompt) == expected


@pytest.mark.parametrize("family", MODELS)
def test_the_texts_of_fine_tuned_models_have_not_changed(family):
    templates = load_templates(family)
    hashes = {field.name: rendered_hash(getattr(templates, field.name)) for field in dataclasses.fields(templates)}
    assert hashes == MODELS[family]
