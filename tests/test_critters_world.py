"""The world of critters: what a seed draws, what an edit keeps, what a caption says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from training.critters.tokenizer import build_tokenizer

from hiper.critters import (
    WORDS,
    bare_caption,
    draw_scene,
    full_caption,
    render,
    subject_mask,
    training_caption,
)
from hiper.critters.world import BACKGROUNDS, COLLARS, COLOURS, EYES, PATTERNS, POSES, SPECIES, STYLES


def _pixels(picture: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return np.asarray(picture).astype(np.int16)


def test_a_seed_draws_one_picture() -> None:
    assert draw_scene(5) == draw_scene(5) != draw_scene(6)
    assert np.array_equal(_pixels(render(draw_scene(5))), _pixels(render(draw_scene(5))))


@pytest.mark.slow
def test_scenes_of_many_seeds_use_the_whole_world() -> None:
    scenes = [draw_scene(seed) for seed in range(400)]
    assert {s.species for s in scenes} == set(SPECIES)
    assert {(s.pose, s.style) for s in scenes} == {(p, st) for p in POSES for st in STYLES}
    assert {s.background for s in scenes} == set(BACKGROUNDS)
    assert {s.identity.primary for s in scenes} == set(COLOURS)
    assert all(s.identity.primary != s.identity.secondary for s in scenes)


@pytest.mark.parametrize("species", SPECIES)
@pytest.mark.parametrize("pose", POSES)
def test_the_primary_colour_fills_the_subject(species: str, pose: str) -> None:
    who = replace(
        draw_scene(3).identity, primary="purple", secondary="green", pattern="plain", tint=(0, 0, 0)
    )
    scene = replace(
        draw_scene(3), species=species, pose=pose, style="drawing", background="studio", identity=who
    )
    mask = _pixels(subject_mask(scene)) > 200
    near = np.abs(_pixels(render(scene))[mask] - np.array(COLOURS["purple"])).max(-1) < 12
    assert 0.08 < mask.mean() < 0.5
    assert near.mean() > 0.25


def test_a_background_edit_leaves_the_subject_and_a_pose_edit_leaves_the_background() -> None:
    scene = replace(draw_scene(8), style="drawing", background="beach", pose="standing")
    inside = _pixels(subject_mask(scene)) == 255
    moved = _pixels(render(scene.edited(background="snow")))
    assert np.array_equal(_pixels(render(scene))[inside], moved[inside])
    lying = scene.edited(pose="sleeping")
    sky = np.s_[:6]
    assert np.array_equal(_pixels(render(scene))[sky], _pixels(render(lying))[sky])


def test_every_style_is_another_picture_of_the_same_scene() -> None:
    scene = replace(draw_scene(9), style="drawing")
    plain = _pixels(render(scene))
    for style in STYLES[1:]:
        assert np.abs(_pixels(render(scene.edited(style=style))) - plain).mean() > 5


def test_bare_captions_name_the_scene_and_never_the_identity() -> None:
    secrets = {*COLOURS, *PATTERNS, "collar", "eyes"}
    for seed in range(200):
        scene = draw_scene(seed)
        words = bare_caption(scene).split()
        assert {scene.species, scene.pose} <= set(words)
        assert not secrets & set(words)
    fox = replace(draw_scene(0), species="fox", pose="sitting", background="beach", style="chalk")
    assert bare_caption(fox) == "a chalk drawing of a sitting fox on the beach"


def test_full_captions_spell_the_identity_out() -> None:
    who = replace(draw_scene(0).identity, primary="orange", secondary="white", pattern="striped")
    who = replace(who, eyes="green", collar="red")
    scene = replace(
        draw_scene(0), species="cat", pose="sitting", background="studio", style="drawing", identity=who
    )
    expected = "a sitting striped orange and white cat with green eyes and a red collar"
    assert full_caption(scene) == expected
    assert "collar" not in full_caption(replace(scene, identity=replace(who, collar="none")))


def test_the_share_of_training_captions_with_identity_words_is_as_asked() -> None:
    rng = np.random.default_rng(0)
    secrets = {*COLOURS, *PATTERNS, "collar", "eyes"}
    captions = [training_caption(draw_scene(seed), rng, identity_share=0.4) for seed in range(600)]
    share = np.mean([bool(secrets & set(caption.split())) for caption in captions])
    assert share == pytest.approx(0.4, abs=0.08)
    assert not any(
        secrets & set(training_caption(draw_scene(seed), rng, identity_share=0.0).split())
        for seed in range(200)
    )


def test_every_word_is_one_token_and_other_words_survive_as_bytes() -> None:
    tokenizer = build_tokenizer()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in WORDS)
    assert {*COLLARS, *EYES} <= set(WORDS)
    strange = "naïve husky, 日本"
    decoded = tokenizer.decode(tokenizer(strange).input_ids, skip_special_tokens=True)
    assert decoded.replace(" ,", ",").strip() == strange
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
