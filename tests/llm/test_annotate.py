"""Rows of a prompt become annotations, side by side and in order; what cannot be parsed is asked for again."""

import asyncio
import collections

import pytest

from lc_jax import llm
from lc_jax.llm import AnnotatorError
from lc_jax.llm.concurrency import gather, in_batches, map_ordered, run
from lc_jax.prompts import forecast
from lc_jax.types import Reply, Request
from tests.llm.asking import Scripted, annotate

FIELDS = {"generated_paragraph": "p", "question": "q", "answer": "a"}


def test_only_invalid_replies_are_asked_again_as_other_samples():
    def answer(request):
        if "Answer: refused" in request.prompt:
            return Reply("refused", detail="no")
        if "Answer: never" in request.prompt:
            return Reply("ok", "about 0.7")
        return Reply("ok", "0.4" if request.sample or "Answer: good" in request.prompt else "1.7")

    annotator = Scripted(answer)
    rows = [{**FIELDS, "answer": name} for name in ("late", "good", "refused", "never")]
    done = annotate(annotator, forecast.PROMPT, rows)
    assert [(a.status, a.value) for a in done] == [("ok", 0.4), ("ok", 0.4), ("refused", None), ("invalid", None)]
    assert collections.Counter(r.sample for r in annotator.requests) == {0: 4, 1: 2, 2: 1}
    assert done[3].text == "about 0.7"
    assert "not a probability" in done[3].detail
    again = annotator.requests[-1]
    assert "Probability:\n\n(An earlier reply to this was of no use, since not a probability" in again.prompt
    assert annotate(annotator, forecast.PROMPT, []) == []


def mapped(f, items, concurrency):
    async def collect():
        return [result async for result in map_ordered(f, items, concurrency)]

    return run(collect())


def test_items_run_side_by_side_and_end_in_order():
    running, most, order = 0, 0, []

    def items():
        for i in range(100):
            order.append(i)
            yield i

    async def f(i):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.001 * (i % 7))
        running -= 1
        return i, len(order)

    results = mapped(f, items(), 4)
    assert [i for i, _ in results] == list(range(100))
    assert most == 4
    assert max(num_drawn - i for i, num_drawn in results) <= 4 * 8
    assert mapped(f, [], 4) == []


def test_the_first_result_does_not_wait_for_the_last():
    async def first():
        async for result in map_ordered(lambda i: asyncio.sleep(0.01 if i == 0 else 60, i), range(3), 3):
            return result

    assert run(first()) == 0


def test_replies_on_their_way_come_before_the_end_of_the_run_and_other_errors_end_it_at_once():
    for error, ended in ((AnnotatorError("no money"), [0, 2]), (RuntimeError("a mistake"), [])):
        done = []

        async def f(i, error=error, done=done):
            if i == 1:
                raise error
            await asyncio.sleep(0.01 * i)
            await asyncio.sleep(0.01)
            done.append(i)

        with pytest.raises(type(error), match=str(error)):
            mapped(f, [1, 0, 2], 3)
        assert done == ended


def test_gather_waits_for_all_before_it_raises():
    done = []

    async def f(i):
        await asyncio.sleep(0.01 * i)
        if i == 0:
            raise AnnotatorError("no")
        done.append(i)
        return i

    async def both():
        return await gather(f(1), f(2))

    assert run(both()) == [1, 2]
    done.clear()

    async def failing():
        await gather(f(0), f(2))

    with pytest.raises(AnnotatorError):
        run(failing())
    assert done == [2]


def test_batches_hold_what_is_asked_side_by_side():
    """Two requests an item, the second after the reply to the first; what is in a batch depends on the items alone."""
    batches = []

    async def answer(requests):
        batches.append([request.prompt for request in requests])
        await asyncio.sleep(0.01)
        return [Reply("ok", request.prompt.upper()) for request in requests]

    ask = in_batches(answer, 4)

    async def f(name):
        first = await ask(Request(f"{name}1", 0.0, 9))
        return first.text, *[reply.text for reply in await gather(*(ask(Request(name + x, 0.0, 9)) for x in "23"))]

    assert mapped(f, "abc", 3) == [(f"{n}1", f"{n}2", f"{n}3") for n in "ABC"]
    assert batches == [["a1", "b1", "c1"], ["a2", "a3", "b2", "b3"], ["c2", "c3"]]
    assert mapped(f, "ab", 1)[1] == ("B1", "B2", "B3")  # in another event loop

    async def broken(requests):
        raise AnnotatorError("not finite")

    with pytest.raises(AnnotatorError, match="not finite"):
        mapped(lambda name: in_batches(broken, 4)(Request(name, 0.0, 9)), "ab", 2)


def test_a_notebook_with_an_event_loop_of_its_own_can_ask():
    async def cell():
        return run(asyncio.sleep(0, "done"))

    assert asyncio.run(cell()) == "done"


def test_unknown_annotators_are_refused_with_the_known_ones():
    for name in ("clairvoyant/big", "simulated", "simulated/"):
        with pytest.raises(ValueError, match=r"provider/model, with one of the providers \[.*'simulated'.*\]"):
            llm.load(name)
