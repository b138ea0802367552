import pytest

from lc_jax.prompts import correctness, in_context, load_templates, paragraph, published, query, summarize


def write(folder, name, text, flat=False):
    path = folder / (published.FILES[name].rpartition("/")[2] if flat else published.FILES[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_folder_of_published_files_takes_the_place_of_our_wordings(tmp_path):
    turns = 'Write {{"ok": 1}}, as in Human: x\n\nAssistant: {{"ok": 1}}\n\nHuman: Go.\n\nAssistant:\n{{\n'
    write(tmp_path, "correctness", "\n\nHuman: {question} {generated_paragraph} {ground_truth_top_answer}\n" + turns)
    write(tmp_path, "query", "Ask {question}\n", flat=True)
    write(tmp_path, "summarize", "{formatted_paragraphs}\nSummary:")
    theirs = published.override(tmp_path, "correctness", correctness.PROMPT)
    fields = {"question": "{answer}", "generated_paragraph": "{{", "answer": "}"}
    assert theirs.render(**fields) == (
        '{answer} {{ }\nWrite {"ok": 1}, as in Human: x\n\nAssistant: {"ok": 1}\n\nHuman: Go.'
    )
    assert theirs.parse('{"Reasoning": "so", "ok": 1}') == 1
    assert theirs.schema == ""  # the wording says itself in which form it wants its reply
    asked = query.asked("Who?", ["Me", "I"])
    assert published.override(tmp_path, "query", query.PROMPT).render(**asked) == "Ask Who?"
    merge = published.override(tmp_path, "summarize", summarize.PROMPT)
    drafts = summarize.number_paragraphs(["a", "b"])
    assert merge.render(paragraph_generation_prompt="Write.", paragraphs=drafts) == (
        "### Thought 1\na\n\n### Thought 2\nb\n\n\nSummary:"
    )
    assert published.override(tmp_path, "claude_distill", paragraph.PROMPT) is paragraph.PROMPT
    assert published.override("", "query", query.PROMPT) is query.PROMPT


def test_the_fine_tuned_models_too(tmp_path):
    ours = load_templates("full")
    write(tmp_path, "critic", "Q: {question}\nA: {ground_truth_top_answer}\n### Response:\n")
    mixed = load_templates("full", tmp_path)
    fields = {"paragraph_generation_prompt": "Write.", "question": "Who?", "answer": "Me"}
    assert mixed.critic.render(**fields) == "Q: Who?\nA: Me\n### Response:"
    assert mixed.paragraph == ours.paragraph
    with pytest.raises(FileNotFoundError, match=r"paragraph\.txt is missing; .* or the published files"):
        load_templates(tmp_path)
    for name in ("paragraph", "extract_answers", "forecast_probs", "factuality"):
        write(tmp_path, name, getattr(ours, name).template)
    assert load_templates(tmp_path).factuality.template == ours.factuality.template


def test_a_wording_with_a_strange_placeholder_is_refused(tmp_path):
    write(tmp_path, "in_context", "{paragraph_generation_prompt} {entity}")
    with pytest.raises(ValueError, match=r"8shot\.txt must hold some of .*\['paragraph_generation_prompt'\]"):
        published.override(tmp_path, "in_context", in_context.PROMPT)
    write(tmp_path, "in_context", "Write.")
    with pytest.raises(ValueError, match="must hold some of"):
        published.override(tmp_path, "in_context", in_context.PROMPT)
    with pytest.raises(FileNotFoundError, match=r"prompt_dir=.*no such folder"):
        published.override(tmp_path / "none", "in_context", in_context.PROMPT)


def test_eight_examples_for_a_base_model():
    assert len(in_context.SHOTS) == 8
    rendered = in_context.PROMPT.render(paragraph_generation_prompt="Write a paragraph about rain.")
    assert rendered.endswith("\n\nRequest: Write a paragraph about rain.\nParagraph:")
    assert rendered.count("\nParagraph:") == 9
    for shot in in_context.SHOTS:
        assert in_context.PROMPT.parse(f" {shot.reply}\r\n\r\nRequest: Write more.") == shot.reply
        assert 3 <= shot.reply.count(".") <= 8
