"""The comparison of remedies: its arms, what they cost, its figure, and a small run of all of it."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from benchmarks import remedies
from benchmarks.remedies import IDEAS, PAPER, cost, count

from hiper.backbones.sd import SdBackbone
from hiper.bench import parse_arm

FLOPS = {"step": 20, "forward": 10}


def test_no_two_ideas_share_an_arm() -> None:
    arms = [parse_arm(arm).text for some in IDEAS.values() for arm in some]
    assert len(set(arms)) == len(arms)


def test_the_default_preset_costs_a_twentieth_of_the_papers() -> None:
    spent = {name: cost(parse_arm(name), FLOPS) for name in ("hiper", "hiper:paper")}
    assert spent["hiper:paper"] == 1000 * 20 + 16 * 10
    assert spent["hiper"] is not None
    assert spent["hiper"] * 20 <= spent["hiper:paper"]


def test_what_a_level_costs_does_not_depend_on_the_batch() -> None:
    one, four = (cost(parse_arm(f"hiper,batch={n},num_train_steps={20 // n}"), FLOPS) for n in (1, 4))
    assert one == four
    assert cost(parse_arm("none"), FLOPS) is None


def test_a_step_costs_less_than_a_forward_pass_and_all_gradients(sd1: SdBackbone) -> None:
    """No gradient of a weight: two products less of three for each of the forward pass's, but for attention's."""
    flops = count(sd1)
    assert flops["forward"] < flops["step"] < 2.5 * flops["forward"]


@pytest.mark.slow
def test_a_run_writes_table_and_figure_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = "hiper:paper,guidance_scale=none,num_inference_steps=2,num_train_steps=2,scheduler=none"
    ideas = {"the paper's fit": [paper], "default": ["hiper,num_inference_steps=2,num_train_steps=1"]}
    monkeypatch.setattr(remedies, "IDEAS", ideas)
    monkeypatch.setattr(remedies, "PAPER", paper)
    monkeypatch.setattr(remedies, "CURVES", 2)
    out, figure = tmp_path / "found.json", tmp_path / "figure.svg"
    command = [
        *("--folder", str(tmp_path / "run"), "--subjects", "2", "--out", str(out)),
        *("--figure", str(figure)),
    ]
    remedies.main(command)
    first = json.loads(out.read_text())
    theirs, own = first["arms"]
    assert theirs["share_of_paper"] == 1 > own["share_of_paper"]
    assert own["minus_paper"]["colour_distance"]["subjects"] == 2
    assert theirs["minus_paper"]["colour_distance"] is None
    assert ET.fromstring(figure.read_text()).tag.endswith("svg")
    assert "fitted" in capsys.readouterr().out
    remedies.main(command)
    assert json.loads(out.read_text()) == first
    assert "fitted" not in capsys.readouterr().out
    assert paper != PAPER
