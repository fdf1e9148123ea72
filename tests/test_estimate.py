"""hiper estimate against what real fits and edits compute, and as a command."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

import hiper
from hiper.analysis import (
    Estimate,
    Part,
    Work,
    counting,
    estimate_edit,
    estimate_fit,
    free_memory,
    usual_settings,
)
from hiper.backbones import Backbone, load_backbone
from hiper.backbones.registry import wrap
from hiper.cli.estimate import _lines
from hiper.conditioning import expanded
from hiper.inference import resolve_settings
from hiper.methods import HiPer
from hiper.seeds import generator
from hiper.training.denoising import AT_ONCE
from tests import tiny, tiny_families
from tests.conftest import Cli

BATCH = 4


def _subject() -> hiper.Subject:
    return hiper.Subject.from_image(tiny.picture(), caption="a picture")


def _part(found: Estimate, name: str) -> Part:
    return next(part for part in found.parts if part.name == name)


def _work(part: Part) -> Work:
    assert part.work is not None
    return part.work


def _flops_of_a_fit(backbone: Backbone, steps: int) -> int:
    with counting() as counter:
        hiper.fit(backbone, _subject(), num_train_steps=steps, batch=BATCH, learning_rate=1e-3)
    return counter.work().flops


@pytest.mark.slow
def test_a_fit_computes_what_was_estimated(sd1: Any) -> None:
    found = estimate_fit(sd1, HiPer().options(num_train_steps=7, batch=BATCH))
    with counting() as counter:
        sd1.encode("a picture")
        sd1.latents(tiny.picture(sd1.resolution), generator(0))
    before = counter.work().flops
    two, five = _flops_of_a_fit(sd1, 2), _flops_of_a_fit(sd1, 5)
    step, look = _part(found, "step"), _part(found, "evaluate the loss")
    assert five - two == 3 * _work(step).flops
    assert two - before == 2 * _work(step).flops + look.times * _work(look).flops
    assert found.flops == 7 * _work(step).flops + look.times * _work(look).flops
    assert found.seconds is not None
    assert found.seconds >= 7 * (step.seconds or 0)


@pytest.mark.slow
def test_the_memory_of_a_step_is_that_of_a_real_one(sd1: Any) -> None:
    options = HiPer().options(batch=BATCH)
    found = estimate_fit(sd1, options)
    method = HiPer()
    task = method.prepare(sd1, _subject(), method.resolve(options, sd1, _subject()))
    with sd1.training_mode(), counting() as counter:
        task.objective.loss(task.parameters, task.generator).backward()  # type: ignore[no-untyped-call]
    assert found.memory.computed == pytest.approx(counter.work().peak, rel=0.01)
    parts = sd1._pipe.components
    sizes = {
        name: sum(weight.nbytes for weight in (*parts[name].parameters(), *parts[name].buffers()))
        for name in ("text_encoder", "unet", "vae")
    }
    assert found.memory.loading == sum(sizes.values())
    assert found.memory.working == sizes["unet"]
    assert found.memory.needed >= max(found.memory.loading, found.memory.working + counter.work().peak * 0.99)
    assert found.memory.reached > found.memory.needed


@pytest.mark.slow
@pytest.mark.parametrize(("guidance", "images"), [(7.5, 3), (1.0, 2)])
def test_an_edit_computes_what_was_estimated(sd1: Any, guidance: float, images: int) -> None:
    settings = resolve_settings({}, sd1, [], guidance_scale=guidance, num_inference_steps=11)
    found = estimate_edit(sd1, settings, images=images, batch_size=4, sentences=2)
    artifact = hiper.fit(sd1, _subject(), num_train_steps=1, learning_rate=1e-3)

    def flops(steps: int) -> int:
        with counting() as counter:
            hiper.edit(
                sd1,
                artifact,
                "a dog",
                seeds=range(images),
                num_inference_steps=steps,
                guidance_scale=guidance,
                scheduler="ddim",
                keep=0.0,
            )
        return counter.work().flops

    step, decode = _part(found, "step"), _part(found, "decode a picture")
    two, five = flops(2), flops(5)
    with counting() as texts:
        sd1.encode("a dog")
        sd1.encode_negative("")
    calls = images * (2 if guidance > 1 else 1)
    with counting() as counter, torch.no_grad():
        sd1.predict(torch.randn(calls, 4, 8, 8), torch.full((calls,), 500), expanded(sd1.encode("a"), calls))
    projections = sum(
        flops
        for name, flops in counter.flops_of_modules().items()
        if name.endswith(("attn2.to_k", "attn2.to_v"))
    )
    # What is made of the text is computed once per drawing, and estimated at every step
    assert five - two == 3 * (_work(step).flops - projections)
    whole = texts.work().flops + 2 * _work(step).flops - projections + images * _work(decode).flops
    assert two == whole
    assert (step.times, decode.times) == (2 * 11, 2 * images)


def test_pictures_in_several_batches_count_as_many_steps_as_they_fill(sd1: Any) -> None:
    settings = resolve_settings({}, sd1, [], num_inference_steps=10)
    found = estimate_edit(sd1, settings, images=6, batch_size=4)
    assert _part(found, "step").times == 15


@pytest.mark.slow
def test_what_does_not_fit_is_told_and_not_tried(sd1: Any) -> None:
    many = 10**8
    found = estimate_edit(sd1, resolve_settings({}, sd1, []), images=many, batch_size=many)
    one = estimate_edit(sd1, resolve_settings({}, sd1, []), images=1, batch_size=1)
    step, decode = _part(found, "step"), _part(found, "decode a picture")
    assert (found.fits, found.seconds, step.seconds, decode.seconds) == (False, None, None, None)
    assert _work(step).peak == many * _work(_part(one, "step")).peak > found.memory.free
    assert _work(decode).peak == many * _work(_part(one, "decode a picture")).peak
    assert found.memory.needed > found.memory.computed > found.memory.free
    assert _work(step).flops == many * _work(_part(one, "step")).flops
    lines = list(_lines(found))
    assert any("not timed" in line for line in lines)
    assert lines[-1].endswith("it does not fit")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl", "flux-dev", "pixart"])
def test_other_families_are_estimated(name: str) -> None:
    backbone = wrap(tiny_families.pipeline(name))
    backbone.resize(tiny_families.SIDE)
    before = backbone.weights_sha256()
    fit = estimate_fit(backbone, HiPer().options(num_train_steps=3, batch=AT_ONCE))
    edit = estimate_edit(backbone, resolve_settings({}, backbone, []), images=2, batch_size=2)
    for found in (fit, edit):
        assert found.seconds is not None
        assert found.flops > 0
    # A gradient to the rows costs at least as much again as the forward pass
    assert _work(_part(fit, "step")).flops > 1.5 * _work(_part(fit, "evaluate the loss")).flops
    assert backbone.weights_sha256() == before


@pytest.mark.slow
def test_a_model_whose_parts_take_turns(model_folder: Path) -> None:
    options = HiPer().options(num_train_steps=3)
    found = estimate_fit(load_backbone(model_folder, device="cpu", memory="low"), options)
    whole = estimate_fit(load_backbone(model_folder, device="cpu"), options)
    looks, steps = (
        [_work(_part(each, name)).flops for each in (found, whole)] for name in ("evaluate the loss", "step")
    )
    assert looks[0] == looks[1]
    assert steps[1] < steps[0] < 2 * steps[1], "low memory computes activations twice"
    assert found.memory.working == whole.memory.working < found.memory.loading < whole.memory.loading


@pytest.mark.slow
def test_the_commands(cli: Cli, model_folder: Path) -> None:
    words = ["--backbone", str(model_folder)]
    done = cli("estimate", "fit", *words, "-o", "num_train_steps=3", "-o", "batch=2", "--json")
    found = json.loads(done.out)
    assert done.status == 0
    assert found["job"] == "fit, 3 steps of 2 timesteps"
    assert found["fits"] is True
    assert found["seconds"] == pytest.approx(sum(part["seconds"] * part["times"] for part in found["parts"]))
    assert found["memory"]["free"] > found["memory"]["needed"] > 0
    done = cli(
        "estimate",
        "edit",
        *words,
        "--images",
        "3",
        "--num-inference-steps",
        "5",
        "--sentences",
        "2",
        "--width",
        "33",
    )
    assert done.status == 0
    assert done.out.splitlines()[0] == "job      edit, 2 x 3 pictures of 5 steps, 3 at a time"
    assert "it fits" in done.out
    assert "32 was drawn" in done.err


@pytest.mark.slow
def test_mistakes_are_told_in_one_line(cli: Cli, model_folder: Path, tmp_path: Path) -> None:
    done = cli("estimate", "fit", "--backbone", str(model_folder), "-o", "num_train_stps=3")
    assert (done.status, done.out) == (2, "")
    assert "did you mean num_train_steps?" in done.err
    done = cli("estimate", "edit", "--backbone", "nowhere")
    assert done.status == 2
    assert "no model 'nowhere'" in done.err
    folder = tmp_path / "huge"
    shutil.copytree(model_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    numbers = 10**12
    header = json.dumps(
        {"conv_in.weight": {"dtype": "F32", "shape": [numbers], "data_offsets": [0, 4 * numbers]}}
    ).encode()
    with weights.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * numbers)  # a file with a hole: 4 TB that take no room
    done = cli("estimate", "fit", "--backbone", str(folder))
    assert done.status == 2
    assert "take 4000.0 GB as float32" in done.err
    assert "Traceback" not in done.err


def test_what_torch_keeps_for_its_next_tensors_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a card of 24 GB others have 3; torch has reserved 15, of which tensors take 5."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6, 24))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 15)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5)
    assert free_memory(torch.device("cuda")) == 24 - 3 - 5
    on_cpu = free_memory(torch.device("cpu"))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: on_cpu)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 0)
    assert free_memory(torch.device("mps")) == pytest.approx(2 * on_cpu, rel=0.2)  # others use memory as well


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_an_edit_that_keeps_its_source_computes_what_was_estimated(sd1: Any, guidance: float) -> None:
    settings = usual_settings(sd1, [], guidance_scale=guidance, num_inference_steps=5)
    step = _part(estimate_edit(sd1, settings, images=2, batch_size=4), "step")
    artifact = hiper.fit(sd1, _subject(), num_train_steps=1, learning_rate=1e-3)

    def flops(steps: int) -> int:
        with counting() as counter:
            hiper.edit(
                sd1, artifact, "a dog", seeds=[0, 1], guidance_scale=guidance, num_inference_steps=steps
            )
        return counter.work().flops

    assert settings.keep == 0.5
    assert step.times == 2 * 5
    assert flops(5) - flops(2) == 3 * 2 * _work(step).flops
