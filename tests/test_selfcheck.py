"""hiper selfcheck on the embedded model and on a folder of every family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hiper
from hiper.analysis import selfcheck
from hiper.backbones import load_backbone
from hiper.backbones.registry import wrap
from tests import tiny, tiny_families
from tests.conftest import Cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning"
    ),  # diffusers' DPM-Solver, numpy 2
    pytest.mark.filterwarnings("ignore:pictures of 64 x 64 pixels are far below"),  # which keeps it quick
]


def test_the_embedded_model_passes(cli: Cli) -> None:
    done = cli("selfcheck", "--backbone", "critters", "--steps", "3", "--json")
    found = json.loads(done.out)
    assert done.status == 0
    assert (found["family"], found["max_length"], found["embed"], found["steps"]) == ("sd", 77, 128, 3)
    assert found["loss_after"] < found["loss_before"]
    # A tail moves a picture, and less than other noise does
    assert 0 < found["sensitivity"]["tail"] < found["sensitivity"]["seed"]
    assert found["peak_memory_bytes"] > 10_000_000
    assert {"hiper", "torch", "diffusers", "transformers"} <= set(found["versions"])


def test_it_prints_lines_worth_pasting(cli: Cli, tmp_path: Path) -> None:
    tiny_families.pipeline("z-image").save_pretrained(tmp_path / "model")
    tiny.picture().save(tmp_path / "dog.png")
    words = ["selfcheck", "--backbone", str(tmp_path / "model"), "--resolution", "64", "--steps", "1"]
    done = cli(*words, "--image", str(tmp_path / "dog.png"), "--caption", "a standing dog", "--memory", "low")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["family"] == "z-image: 512 x 32 token embeddings, placement append, flow, 64 pixels"
    assert lines["device"] == "cpu, float32, memory low"
    assert " in 1 steps" in lines["loss"]
    refusal = cli(*words, "--caption", "a standing dog")
    assert refusal.status == 2
    assert "give both, or neither" in refusal.err


@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_a_folder_of_every_family_loads_and_passes(name: str, subject: hiper.Subject, tmp_path: Path) -> None:
    pipe = tiny_families.pipeline(name)
    pipe.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path, device="cpu", resolution=tiny_families.SIDE)
    found = selfcheck(backbone, subject, steps=4)
    assert found.family == backbone.family
    assert found.sensitivity.tail > 0
    assert found.sensitivity.seed > 0
    assert backbone.fingerprint() == wrap(pipe).fingerprint()
