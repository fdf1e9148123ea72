"""Attention on tiny real models: what is captured is what the layers use, and capturing changes nothing it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

import hiper
from hiper.analysis.attention import Study, fragment, page, places, study_drawing, study_picture
from hiper.analysis.attention.figures import distance, figures, group_figures
from hiper.analysis.attention.heat import SHOWN, heat_map
from hiper.analysis.attention.maps import PHASES, SIDE, Recorder
from hiper.analysis.attention.tokens import label_tokens
from hiper.artifacts import Artifact
from hiper.backbones import AttentionProbabilities
from hiper.backbones.sd import SdBackbone
from hiper.conditioning import place_tail, take_tail
from hiper.errors import ImageError, OptionError
from hiper.seeds import generator
from tests import tiny

PROMPT = "a jumping dog on the grass"
QUICK: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 7.5}
LAYERS = ["down_blocks.0", "mid_block", "up_blocks.1", "up_blocks.1"]


def artifact_of(backbone: SdBackbone, tail: torch.Tensor, **edit: float) -> Artifact:
    return Artifact(
        method="hiper",
        family=backbone.family,
        backbone=backbone.id,
        revision="",
        fingerprint=backbone.fingerprint(),
        caption="a standing dog",
        image_sha256="",
        seed=0,
        options={"placement": "replace"},
        edit={"strength": 1.0, **edit},
        tensors={"tail": tail},
        figures={},
        versions={},
        created="",
        thumbnail="",
        extra={},
    )


@pytest.fixture(scope="module")
def artifact(sd1: SdBackbone) -> Artifact:
    """A tail that is neither padding nor words."""
    return artifact_of(sd1, 2 * torch.randn(3, tiny.EMBED, generator=generator(1)))


@pytest.fixture(scope="module")
def study(sd1: SdBackbone, artifact: Artifact) -> Study:
    return study_drawing(sd1, artifact, PROMPT, **QUICK)


def processors(backbone: SdBackbone) -> dict[str, Any]:
    return dict(backbone._pipe.unet.attn_processors)


# capture


@pytest.mark.slow
def test_a_watched_drawing_is_the_same_bit_for_bit(backbone: SdBackbone) -> None:
    tail = torch.randn(3, tiny.EMBED, generator=generator(1))
    made = artifact_of(backbone, tail)
    seen = study_drawing(backbone, made, PROMPT, seed=7, **QUICK)
    assert seen.learnt.picture.tobytes() == edited(backbone, made).tobytes()
    rows = place_tail(backbone.encode(PROMPT), tail, "replace")
    noisy, t = torch.randn(2, *backbone.latent_shape, generator=generator(0)), torch.tensor([900, 30])
    with torch.no_grad():
        plain = backbone.predict(noisy, t, rows)
        with backbone.capture_attention(lambda attended: None):
            assert torch.equal(backbone.predict(noisy, t, rows), plain)


def edited(backbone: SdBackbone, artifact: Artifact) -> Image.Image:
    return hiper.edit(backbone, artifact, PROMPT, seeds=[7], **QUICK).images[0]


def test_the_models_own_processors_come_back_also_after_a_failure(sd1: SdBackbone) -> None:
    before = processors(sd1)

    def fail(attended: AttentionProbabilities) -> None:
        raise KeyError(attended.layer)

    with sd1.capture_attention(lambda attended: None):
        assert {name for name, each in processors(sd1).items() if each is not before[name]} == {
            name for name in before if "attn2" in name
        }
    with pytest.raises(KeyError), torch.no_grad(), sd1.capture_attention(fail):
        sd1.predict(torch.zeros(1, *sd1.latent_shape), torch.tensor([5]), sd1.encode(PROMPT))
    assert all(each is before[name] for name, each in processors(sd1).items())


@pytest.mark.parametrize("processor", [None, AttnProcessor()])
def test_what_is_told_is_what_the_layer_computes_with(backbone: SdBackbone, processor: Any) -> None:
    """Probabilities times values, through the layer's last projection, are the layer's own output."""
    unet, captured, outputs = backbone._pipe.unet, {}, {}
    own = processors(backbone)
    if processor is not None:
        unet.set_attn_processor(processor)
    layers = {name: module for name, module in unet.named_modules() if name.endswith("attn2")}
    hooks = [
        layer.register_forward_hook(lambda module, given, output, name=name: outputs.update({name: output}))
        for name, layer in layers.items()
    ]
    sentence = backbone.encode(PROMPT)
    with (
        torch.no_grad(),
        backbone.capture_attention(lambda each: captured.update({each.layer: each.probabilities})),
    ):
        backbone.predict(torch.randn(2, *backbone.latent_shape), torch.tensor([900, 30]), sentence)
        assert [name.split(".attentions")[0] for name in captured] == LAYERS
        for name, layer in layers.items():
            values = layer.head_to_batch_dim(layer.to_v(sentence.token_embeddings.expand(2, -1, -1)))
            assert torch.allclose(captured[name].sum(-1), torch.ones(1), atol=1e-5)
            mixed = layer.batch_to_head_dim(captured[name].flatten(0, 1) @ values)
            assert torch.allclose(layer.to_out[0](mixed), outputs[name], rtol=1e-3, atol=1e-4)
    for hook in hooks:
        hook.remove()
    unet.set_attn_processor(own)


def test_a_family_without_cross_attention_is_refused_in_one_line(
    sd1: SdBackbone, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SdBackbone, "capabilities", frozenset({"token_embeddings"}))
    with pytest.raises(OptionError, match=r"of the family sd, which has no cross-attention"):
        study_drawing(sd1, artifact, PROMPT, **QUICK)


def test_a_method_that_draws_in_its_own_way_is_refused(sd1: SdBackbone) -> None:
    subject = hiper.Subject.from_image(tiny.picture(), caption="a standing dog")
    made = hiper.fit(sd1, subject, method="sdedit", num_inference_steps=4)
    with pytest.raises(OptionError, match=r"method sdedit .* cannot be captured"):
        study_drawing(sd1, made, PROMPT, num_inference_steps=4)


# running means


def test_means_are_those_of_all_maps_kept(sd1: SdBackbone, artifact: Artifact, study: Study) -> None:
    """Under guidance the sentence is the batch's second half; its maps alone count."""
    kept: list[AttentionProbabilities] = []
    sentence = place_tail(sd1.encode(PROMPT), artifact.tensors["tail"], "replace")
    with sd1.capture_attention(kept.append):
        sd1.sample(
            sentence,
            [sd1.encode("")],
            sd1.sampling_settings(scheduler="ddim", height=32, width=32, **QUICK),
            seeds=[0],
        )
    assert all(len(each.probabilities) == 2 for each in kept)
    assert len(kept) == len(LAYERS) * QUICK["num_inference_steps"]
    for layer, heads in study.learnt.maps.heads.items():
        own = torch.stack([each.probabilities[1] for each in kept if each.layer == layer]).mean(0)
        side = study.learnt.maps.sides[layer]
        maps = own.transpose(1, 2).reshape(len(own), -1, side, side)
        times = SIDE // side
        assert torch.allclose(heads, maps.repeat_interleave(times, 2).repeat_interleave(times, 3), atol=1e-6)
    layers = study.learnt.maps.layers
    assert torch.allclose(study.learnt.maps.whole, torch.stack([*layers.values()]).mean(0))
    assert torch.allclose(study.learnt.maps.phases.mean(0), study.learnt.maps.whole, atol=1e-6)


def test_every_place_looks_at_something(study: Study) -> None:
    for maps in (*study.learnt.maps.layers.values(), *study.learnt.maps.phases, study.untouched.maps.whole):
        assert torch.allclose(maps.sum(0), torch.ones(SIDE, SIDE), atol=1e-5)


def elements(recorder: Recorder) -> int:
    """Numbers in all tensors that are reachable from a recorder."""
    found, waiting, seen = 0, [vars(recorder)], set()
    while waiting:
        node: Any = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, torch.Tensor):
            found += node.numel()
        elif isinstance(node, Mapping):
            waiting += node.values()
        elif isinstance(node, list | tuple):
            waiting += node
        elif hasattr(node, "__dict__"):
            waiting.append(vars(node))
    return found


@pytest.mark.parametrize(("steps", "pictures", "side"), [(6, 1, 8), (40, 1, 8), (6, 3, 8), (6, 1, 64)])
def test_memory_does_not_grow_with_steps_pictures_or_pixels(steps: int, pictures: int, side: int) -> None:
    heads, length, layers = 2, 7, ("one", "two", "three")
    recorder = Recorder(pictures=pictures, steps=steps)
    for step in range(steps):
        for layer in layers:
            probabilities = torch.rand(2 * pictures, heads, side * side, length).softmax(-1)
            recorder.record(AttentionProbabilities(layer=layer, probabilities=probabilities))
        recorder.after_step(step + 1, steps)
    assert elements(recorder) == (len(layers) * heads + PHASES) * length * SIDE * SIDE
    assert recorder.maps().phases.shape == (PHASES, length, SIDE, SIDE)


@pytest.mark.parametrize("side", [4, 16, 64])
def test_maps_of_every_size_keep_where_and_how_much(side: int) -> None:
    """Half of the places look at row 0 and the others at row 1."""
    left = torch.zeros(side, side)
    left[:, : side // 2] = 1
    recorder = Recorder(pictures=1, steps=1)
    cells = torch.stack([left.flatten(), 1 - left.flatten()], dim=-1)
    recorder.record(AttentionProbabilities(layer="one", probabilities=cells.expand(1, 1, -1, -1)))
    maps = recorder.maps().whole
    expected = torch.zeros(SIDE, SIDE)
    expected[:, : SIDE // 2] = 1
    assert torch.equal(maps, torch.stack([expected, 1 - expected]))


# rows and figures


def test_rows_are_told_apart(sd1: SdBackbone) -> None:
    sentence = sd1.encode("a sitting dog")
    rows = label_tokens(place_tail(sentence, torch.zeros(2, tiny.EMBED), "replace"))
    assert [row.index for row in rows] == list(range(77))
    assert [row.kind for row in rows[:6]] == ["start", "word", "word", "word", "end", "padding"]
    assert [row.text for row in rows[:5]] == ["", "a", "sitting", "dog", ""]
    assert places(rows, "tail") == [75, 76]
    assert places(rows, "padding") == list(range(5, 75))
    assert places(label_tokens(place_tail(sentence, torch.zeros(2, tiny.EMBED), "append")), "tail") == [
        77,
        78,
    ]
    assert places(label_tokens(place_tail(sentence, torch.zeros(75, tiny.EMBED), "replace")), "word") == [1]


def test_figures_of_known_maps() -> None:
    even, point = torch.full((SIDE, SIDE), 0.25), torch.zeros(SIDE, SIDE)
    point[2, 3] = 1.0
    half = torch.zeros(SIDE, SIDE)
    half[:, : SIDE // 2] = 1
    assert figures(even, half).mass == pytest.approx(0.25)
    assert figures(even, half).spread == pytest.approx(1)
    assert figures(even, half).on_subject == pytest.approx(0.5)
    assert figures(point, None).spread == pytest.approx(1 / SIDE**2)
    assert figures(point, None).on_subject is None
    assert figures(point, half).on_subject == 1
    assert figures(0 * point, half).spread is None
    assert figures(half, None).spread == pytest.approx(0.5)
    assert distance(half, 3 * half) == 0
    assert distance(half, even) == pytest.approx(0.5)
    assert distance(half, 1 - half) == 1


def test_the_groups_share_all_attention(study: Study) -> None:
    found = group_figures(study.learnt.maps.whole, study.learnt.tokens, None)
    assert set(found) == {"start", "word", "end", "padding", "tail"}
    assert sum(each.mass for each in found.values()) == pytest.approx(1, abs=1e-5)
    assert sum(each.mass for _, each in study.token_figures()) == pytest.approx(1, abs=1e-5)


def test_a_tail_that_is_the_padding_changes_nothing(sd1: SdBackbone) -> None:
    same = artifact_of(sd1, take_tail(sd1.encode(PROMPT), 3))
    study = study_drawing(sd1, same, PROMPT, **QUICK)
    contrast = study.contrast()
    assert torch.equal(study.learnt.maps.whole, study.untouched.maps.whole)
    assert contrast is not None
    assert contrast.tail == contrast.padding
    assert contrast.tail_to_padding == 0
    assert contrast.tail_to_words == contrast.padding_to_words


def test_an_appended_tail_is_compared_with_as_many_rows(sd1: SdBackbone, artifact: Artifact) -> None:
    appended = replace(artifact, options={"placement": "append"})
    study = study_drawing(sd1, appended, PROMPT, **QUICK)
    assert len(study.learnt.tokens) == len(study.untouched.tokens) == 77 + 3
    assert places(study.learnt.tokens, "tail") == [77, 78, 79]
    assert study.contrast() is not None


# pictures under noise


def test_a_mask_and_the_rest_share_every_rows_attention(sd1: SdBackbone, artifact: Artifact) -> None:
    picture, mask = tiny.picture(), Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 64, 24))
    rest = mask.point(lambda level: 255 - level)
    inside, outside = (study_picture(sd1, artifact, picture, mask=each, levels=3) for each in (mask, rest))
    assert inside.subject_area == pytest.approx(24 / 64, abs=0.01)
    for (_, one), (_, other) in zip(inside.token_figures(), outside.token_figures(), strict=True):
        assert one.on_subject is not None
        assert other.on_subject is not None
        assert one.on_subject + other.on_subject == pytest.approx(1, abs=1e-4)
        assert one.mass == other.mass


def test_both_readings_see_the_same_noise(sd1: SdBackbone) -> None:
    same = artifact_of(sd1, take_tail(sd1.encode(PROMPT), 3))
    study = study_picture(sd1, same, tiny.picture(), PROMPT, levels=3, seed=5)
    other = study_picture(sd1, same, tiny.picture(), PROMPT, levels=3, seed=6)
    assert torch.equal(study.learnt.maps.whole, study.untouched.maps.whole)
    assert not torch.equal(study.learnt.maps.whole, other.learnt.maps.whole)


def test_a_mask_of_another_size_is_refused(sd1: SdBackbone, artifact: Artifact) -> None:
    with pytest.raises(ImageError, match="the mask has 8x8 pixels, the picture 64x64"):
        study_picture(sd1, artifact, tiny.picture(), mask=Image.new("L", (8, 8), 255))
    with pytest.raises(OptionError, match="levels is 0; allowed are whole numbers from 1 to 1000"):
        study_picture(sd1, artifact, tiny.picture(), levels=0)


# what is written


def test_a_heat_map_is_light_where_most_look() -> None:
    seen = torch.zeros(SIDE, SIDE)
    seen[:8] = 0.01
    levels = np.asarray(heat_map(Image.new("RGB", (64, 64), "grey"), seen).convert("L"), dtype=float)
    assert levels.shape == (SHOWN, SHOWN)
    assert levels[: SHOWN // 2 - 16].min() > levels[SHOWN // 2 + 16 :].max() + 50


@pytest.mark.slow
def test_the_page_needs_nothing_else_and_believes_no_text(sd1: SdBackbone, artifact: Artifact) -> None:
    hostile = '<script>alert("1")</script> & <img src=http://x.example/>'
    study = study_drawing(sd1, replace(artifact, caption=hostile), hostile, **QUICK)
    text = page(study)
    assert "default-src 'none'; img-src data:" in text.replace("&#x27;", "'")
    assert "<script" not in text
    assert "<img src=http" not in text
    assert text.count("<img ") == text.count('src="data:image/jpeg;base64,')
    assert fragment(study) in text
    words = len(places(study.learnt.tokens, "word"))
    assert text.count("<figure>") == 2 + (1 + words + 1 + 3 + 1) + 2 + 3 * len(LAYERS)


def test_the_record_is_json_with_every_row_layer_head_and_part(study: Study) -> None:
    record = json.loads(json.dumps(study.as_record(maps=True), allow_nan=False))
    assert [row["kind"] for row in record["tokens"]].count("tail") == 3
    assert np.asarray([row["map"] for row in record["tokens"]]).sum(0) == pytest.approx(
        np.ones((SIDE, SIDE)), abs=1e-3
    )
    assert [len(layer["heads"]) for layer in record["layers"]] == [2, 2, 2, 2]
    assert len(record["phases"]) == QUICK["num_inference_steps"]
    assert record["groups"]["learnt"]["tail"]["mass"] == pytest.approx(record["contrast"]["tail"]["mass"])
    assert "tail" not in record["groups"]["untouched"]
    assert "map" not in study.as_record(maps=False)["tokens"][0]  # type: ignore[index]


def test_progress_counts_both_runs(sd1: SdBackbone, artifact: Artifact) -> None:
    captured: list[tuple[int, int]] = []
    study_drawing(sd1, artifact, PROMPT, callback=lambda *step: captured.append(step), **QUICK)
    assert captured == [(done, 8) for done in range(1, 9)]
