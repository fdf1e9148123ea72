"""The benchmarks of cost: published sizes, sums made by hand, and that the published recipe is the method's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
from benchmarks import against_the_paper, cost_model, full_size, growth
from benchmarks.full_size_models import MODELS
from torch._subclasses.fake_tensor import FakeTensorMode

import hiper
from hiper.analysis import Work
from tests import tiny


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"), [("sd14", 859_520_964), ("sdxl", 2_567_463_684), ("flux", 11_901_408_320)]
)
def test_the_denoisers_have_the_published_sizes(name: str, parameters: int) -> None:
    with FakeTensorMode():
        model = cost_model.SIZES[name].build()
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.slow
def test_a_forward_pass_of_sd_costs_what_others_have_counted_and_attention() -> None:
    size = cost_model.SIZES["sd14"]
    with FakeTensorMode():
        model = cost_model.built(size, torch.float32, frozen=True)
        flops = cost_model.forward(size, model, 64, 1).work().flops
    layers = {(64, 320): 5, (32, 640): 5, (16, 1280): 5, (8, 1280): 1}  # (cells a side, width): transformers
    attention = sum(count * 4 * side**2 * width * (side**2 + 77) for (side, width), count in layers.items())
    # diffusers' table on T-GATE: 16.938 T multiplications and additions for 25 steps under guidance, without attention
    assert flops - attention == pytest.approx(2 * 16.938e12 / 50, rel=0.002)


def test_all_full_sizes_are_measured() -> None:
    assert list(full_size.read(full_size.OUT)) == list(MODELS)


def test_figures_of_another_dtype_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "log.json"
    out.write_bytes(before := full_size.OUT.read_bytes())
    monkeypatch.setattr("sys.argv", ["full_size", "--dtype", "float16", "--out", str(out)])
    with pytest.raises(SystemExit, match="2"):
        full_size.main()
    assert out.read_bytes() == before


def test_the_floor_is_the_work_over_the_rate() -> None:
    gpu = cost_model.Gpu(name="a GPU", bfloat16=100.0, float32=10.0, bandwidth=4.0)
    work = Work(flops=1000, moved=80, products=40, peak=0)
    assert gpu.seconds(work, torch.bfloat16) == {
        "by_compute": 10.0,
        "by_memory_unfused": 20.0,
        "by_memory_fused": 10.0,
    }
    assert gpu.seconds(work, torch.float32)["by_compute"] == 100.0


def test_where_the_reference_spends_adds_up() -> None:
    report = {
        "fit step, unfrozen, float32, batch 1": {"flops": 30},
        "fit step, frozen, float32, batch 1": {"flops": 20},
        "sampling step, guided, frozen, float32": {"flops": 20},
    }
    spent = cost_model.reference(report)
    # 1000 steps of 20, 10 more each for weights, and 10 previews of 3 pictures, 50 steps, 2 calls of 10
    assert list(spent.values()) == [20_000, 10_000, 10 * 3 * 50 * 2 * 10]


def test_an_exponent_is_that_of_a_power_law() -> None:
    sizes = (1, 2, 5, 9)
    assert growth.exponent(sizes, [3.0 * size**1.5 for size in sizes]) == 1.5
    assert growth.exponent(sizes, [7.0] * 4) == 0


def test_the_figure_of_growth_is_a_drawing_with_a_panel_per_size() -> None:
    curves = [
        growth.Curve(what=what, model=model, sizes=(1, 2, 4), time=(1, 2, 5), memory=(3, 3, 4))
        for what in ("rows", "levels")
        for model in ("critters", "sd14")
    ]
    root = ET.fromstring(growth.figure(curves))
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"rows", "levels", "SD 1.4, FLOPs"} <= set(words)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) >= 8


def _job(sd1: Any) -> against_the_paper.Job:
    subject = hiper.Subject.from_image(tiny.picture(), caption="a standing dog")
    return against_the_paper.Job(backbone=sd1, second=sd1, subject=subject, target="a sitting dog")


@pytest.mark.slow
def test_the_published_recipe_comes_to_the_tail_of_the_paper_preset(sd1: Any) -> None:
    job, before = _job(sd1), sd1.weights_sha256()
    tail = against_the_paper.published(job, 5)
    ours = hiper.fit(sd1, job.subject, preset="paper", num_train_steps=5).tensors["tail"]
    start = sd1.encode("a standing dog").token_embeddings[0, -5:]
    assert torch.allclose(tail, ours, atol=1e-5)
    assert (tail - start).abs().max() > 1e-2
    assert sd1.weights_sha256() == before
    assert all(weight.grad is None and not weight.requires_grad for weight in sd1.denoiser.parameters())


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_was_stopped(
    sd1: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_the_paper, "STEPS", 2)
    monkeypatch.setattr(against_the_paper, "PREVIEW_STEPS", 2)
    out, job, arms = tmp_path / "log.json", _job(sd1), ("published", "hiper:default")
    against_the_paper.compare(job, arms, 1, out)
    first = json.loads(out.read_text())
    assert [run["arm"] for run in first["runs"]] == list(arms)
    against_the_paper.compare(job, arms, 2, out)
    second = json.loads(out.read_text())
    assert second["runs"][:2] == first["runs"]
    assert [run["round"] for run in second["runs"]] == [0, 0, 1, 1]
    found = second["whole"]
    base, ours = (found[arm]["processor_seconds"] for arm in arms)
    assert found["hiper:default"]["processor_seconds_of_published"] == pytest.approx(base / ours)
    assert found["published"]["seconds_of_published"] == 1
