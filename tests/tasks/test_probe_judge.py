"""The probe of a judge: a judge that dislikes hedges is found out, and a fair one is not."""

import json

import pytest

from lc_jax.preflight import Problems
from lc_jax.prompts import equivalence
from lc_jax.tasks import probe_judge
from lc_jax.types import Reply
from tests.evaluation.test_report import entry
from tests.llm.fake_server import KEY, FakeServer
from tests.tasks.test_recalibrate import write
from tests.test_configs import config_of


def judge_by(accepts):
    def answer(request):
        items = equivalence.split_comparisons(equivalence.PROMPT.match(request.prompt)["comparisons"])
        return Reply("ok", "\n".join("yes" if accepts(item) else "no" for item in items))

    return answer


@pytest.fixture
def probe(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def go(server, **overrides):
        folder = tmp_path / "evaluation"
        if not folder.exists():
            write(folder, entry("LC RL", count=40))
        config = config_of("probe_judge")
        config.evaluation, config.output = str(folder), str(tmp_path / "out")
        config.annotator.name = "openai/gpt-4.1"
        config.annotator.base_url = server.openai_url if server else ""
        config.update(overrides)
        assert not probe_judge.needs_devices(config)
        probe_judge.check(config)
        probe_judge.run(config, None)
        return json.loads((tmp_path / "out" / "probe.json").read_text())

    return go


def test_a_judge_that_refuses_doubt_is_found_out(probe):
    """Accepting answers at the end of a text only makes "{answer}, but I am not sure" and "{answer} (40%)" fail."""
    records = [row for row in entry("LC RL", count=40).records if row["status"] == "ok"]
    num_right = sum(row["chosen"] == row["answer"] for row in records)
    with FakeServer(judge_by(lambda item: item.candidate.rstrip(".").endswith(item.answer))) as server:
        result = probe(server)
        assert probe(server) == result
        assert len(server.exchanges) == 6 * -(-len(records) // 10)  # ten to a request, and none twice
    assert result["judge"] == "openai/gpt-4.1"
    by_wording = {row["wording"]: row for row in result["wordings"]}
    assert set(by_wording) == set(probe_judge.WORDINGS)
    for wording, row in by_wording.items():
        changed = num_right if wording in ("It might be {answer}, but I am not sure.", "{answer} (40%)") else 0
        assert (row["num_answers"], row["right_to_wrong"], row["wrong_to_right"]) == (len(records), changed, 0)
        assert row["changed_low"] <= changed / len(records) <= row["changed_high"]


def test_verdicts_from_wrong_to_right_are_counted_too(probe):
    with FakeServer(judge_by(lambda item: "certainly" in item.candidate)) as server:
        rows = probe(server, limit=7)["wordings"]
    assert [(row["num_answers"], row["right_to_wrong"], row["wrong_to_right"]) for row in rows] == [
        *[(7, 0, 0)] * 4,
        (7, 0, 7),
    ]


def test_a_dry_run_sends_nothing(probe, tmp_path, capsys):
    with pytest.raises(FileNotFoundError):
        probe(None, dry_run=True)
    assert "openai/gpt-4.1" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_probed_is_refused(probe, tmp_path):
    with pytest.raises(Problems, match=r"--config.evaluation=nowhere: no nowhere/result.json"):
        probe(None, evaluation="nowhere")
    with pytest.raises(Problems, match=r"--config.limit=-1: give a whole number"):
        probe(None, limit=-1)
    bare = entry("LC RL", count=40)
    write(tmp_path / "bare", type(bare)(bare.result, [{**row, "chosen": ""} for row in bare.records]))
    with pytest.raises(Problems, match=r"its records have no answers to questions; name another"):
        probe(None, evaluation=str(tmp_path / "bare"))
