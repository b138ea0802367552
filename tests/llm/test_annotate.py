import itertools

import pytest

from lc_jax import llm
from lc_jax.llm.annotate import annotate, counts, judge
from lc_jax.prompts import Prompt, equivalence, forecast, retry
from lc_jax.types import Reply

FIELDS = {"generated_paragraph": "p", "question": "q", "answer": "a"}


def judging(annotator):
    return lambda rows: annotate(annotator, equivalence.PROMPT, rows, temperature=0.0, max_tokens=200)


class Scripted:
    """Answers from a function of the request; remembers what it was asked."""

    name = "scripted/test"

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def complete(self, requests):
        self.asked.append(list(requests))
        return enumerate([self.answer(request) for request in self.asked[-1]])


def test_only_invalid_replies_are_asked_again_as_other_samples():
    def answer(request):
        if "Answer: refused" in request.prompt:
            return Reply("refused", detail="no")
        if "Answer: never" in request.prompt:
            return Reply("ok", "about 0.7")
        return Reply("ok", "0.4" if request.sample or "Answer: good" in request.prompt else "1.7")

    annotator = Scripted(answer)
    rows = [{**FIELDS, "answer": name} for name in ("late", "good", "refused", "never")]
    done = list(annotate(annotator, forecast.PROMPT, rows, temperature=0.2, max_tokens=9))
    assert [(a.status, a.value) for a in done] == [("ok", 0.4), ("ok", 0.4), ("refused", None), ("invalid", None)]
    assert [[r.sample for r in batch] for batch in annotator.asked] == [[0] * 4, [1, 1], [2]]
    assert done[3].text == "about 0.7"
    assert "not a probability" in done[3].detail
    assert counts(done) == {"ok": 2, "refused": 1, "invalid": 1}
    assert (
        "Probability:\n\n(An earlier reply to this was of no use, since not a probability"
        in annotator.asked[1][0].prompt
    )
    assert list(annotate(annotator, forecast.PROMPT, [], temperature=0.2, max_tokens=9)) == []


def test_rows_come_in_order_while_later_ones_are_still_asked():
    """Replies arrive backwards within fours; a bad one is asked again before new rows are."""

    class Backwards(Scripted):
        def complete(self, requests):
            numbered = enumerate(requests)
            while batch := list(itertools.islice(numbered, 4)):
                self.asked.append([request for _, request in batch])
                yield from [(index, self.answer(request)) for index, request in reversed(batch)]

    annotator = Backwards(
        lambda request: Reply("ok", "1.7" if request.prompt.split()[0].endswith("5") else request.prompt)
    )
    stream = annotate(annotator, Prompt("{x}", forecast.PROMPT.parser), ({"x": f"0.{i}"} for i in range(100)),
                      temperature=0, max_tokens=1, retries=1)  # fmt: skip
    assert next(stream).value == 0.0
    assert len(annotator.asked) == 1  # the first row did not wait for the others
    rest = list(stream)
    assert [a.value for a in rest if a.status == "ok"] == [float(f"0.{i}") for i in range(1, 100) if i % 10 != 5]
    assert [r.sample for r in annotator.asked[1]].count(1) == 0
    assert [r.sample for r in annotator.asked[2]].count(1) == 1


def test_too_few_or_strange_replies_are_an_error():
    class Silent(Scripted):
        def complete(self, requests):
            return [(7, Reply("ok"))] * self.answer if list(requests) else []

    for copies, message in ((0, "scripted/test left 1 requests"), (1, "scripted/test gave a reply to request 7")):
        with pytest.raises(RuntimeError, match=message):
            list(annotate(Silent(copies), Prompt("{x}"), [{"x": "1"}], temperature=0, max_tokens=1))


def test_a_spoilt_batch_is_judged_singly():
    def answer(request):
        again = retry.PROMPT.match(request.prompt)
        fields = equivalence.PROMPT.match(again["request"] if again else request.prompt)
        items = equivalence.split_comparisons(fields["comparisons"])
        verdicts = ["yes" if item.answer == item.candidate else "no" for item in items]
        if len(items) > 1 and items[0].answer == "0":
            verdicts.pop()
        return Reply("ok", "\n".join(verdicts))

    annotator = Scripted(answer)
    comparisons = [equivalence.Comparison("q", str(i), str(i - i % 3)) for i in range(25)]
    verdicts = judge(judging(annotator), comparisons)
    assert [v.value for v in verdicts] == [i % 3 == 0 for i in range(25)]
    assert [len(batch) for batch in annotator.asked] == [3, 1, 1, 10]
    broken = Scripted(lambda request: Reply("failed", detail="down"))
    assert counts(judge(judging(broken), comparisons)) == {"failed": 25}
    assert [len(batch) for batch in broken.asked] == [3]


def test_unknown_annotators_are_refused_with_the_known_ones():
    for name in ("clairvoyant/big", "simulated", "simulated/"):
        with pytest.raises(ValueError, match=r"provider/model, with one of the providers \[.*'simulated'.*\]"):
            llm.load(name)
