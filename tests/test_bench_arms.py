"""What an arm may be called, and what each draws on a tiny real model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hiper.backbones import Backbone
from hiper.bench import Arm, Case, Fits, Suite, SuiteSpec, open_suite, parse_arm
from hiper.bench.arm_sampler import ArmSampler, Drawn, drawing_settings, random_tail_of
from hiper.bench.arms import arm_names, check_suite, parse_arms
from hiper.errors import Interrupted, OptionError
from hiper.images import Subject, fit_square
from hiper.inference import edit
from hiper.methods import HiPer, PresetFile, get_method
from hiper.methods.inversion import walk_steps, walks_by
from hiper.seeds import generator
from tests import tiny
from tests.small_suite import SIDE, SmallSuite

QUICK = "num_train_steps=2,batch=2,num_inference_steps=2"
VAGUE = f"hiper,{QUICK},source_caption=vague"
SEEDS = (3, 4)

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower the loss")


@pytest.fixture
def suite() -> Suite:
    return SmallSuite(split="test", seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fits")


@pytest.fixture
def fits(folder: Path, suite: Suite, sd1: Backbone) -> Fits:
    return Fits(folder, suite, sd1, lambda: None)


@pytest.fixture
def sampler(sd1: Backbone, fits: Fits) -> ArmSampler:
    return ArmSampler(sd1, fits, lambda: None)


def case(suite: Suite, subject: str = "ann") -> Case:
    return suite.cases(subject)[0]


def arrays(drawn: Drawn) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    return [np.asarray(image) for image in drawn.images]


def same(one: Drawn, other: Drawn) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True))


# names


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("hiper", "hiper"),
        ("hiper:default", "hiper"),
        ("hiper:paper", "hiper:paper"),
        ("hiper,tail=5", "hiper"),
        ("hiper, num_train_steps = 0010,learning-rate=5e-3", "hiper,learning_rate=0.005,num_train_steps=10"),
        ("hiper:paper,guidance_scale=none", "hiper:paper,guidance_scale=none"),
        ("none", "none"),
        ("none:paper", "none:paper"),
        ("none,guidance_scale=3", "none,guidance_scale=3.0"),
        ("random-tail,num_train_steps=9", "random-tail,num_train_steps=9"),
        ("truth", "truth"),
    ],
)
def test_an_arm_has_one_spelling(text: str, canonical: str) -> None:
    arm = parse_arm(text)
    assert arm.text == canonical
    assert parse_arm(arm.text) == arm


def test_arms_are_drawn_once() -> None:
    assert [arm.text for arm in parse_arms(["none", "hiper,tail=5", "hiper", "none"])] == ["none", "hiper"]


def test_file_names_differ_where_arms_do() -> None:
    texts = [
        "hiper",
        "hiper:paper",
        "hiper,num_train_steps=11",
        "hiper,num_train_steps=1",
        "hiper,t_min=0.1",
        "random-tail",
    ]
    slugs = [parse_arm(text).slug for text in texts]
    assert slugs[:2] == ["hiper", "hiper-paper"]
    assert len({slug.casefold() for slug in slugs}) == len(texts)
    assert all(set(slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for slug in slugs)
    assert parse_arm("hiper,num_train_steps=11").slug == "hiper-num-train-steps-11-4119366d"


def test_presets_from_files_share_neither_pictures_nor_fits_of_what_they_said_before(tmp_path: Path) -> None:
    def tuned(path: Path, steps: int) -> str:
        path.parent.mkdir(exist_ok=True)
        found = PresetFile(method="hiper", backbone="critters", options={"num_train_steps": steps})
        found.save(path, overwrite=True)
        return f"hiper:{path}"

    one, other = parse_arm(tuned(tmp_path / "a" / "b.json", 2)), parse_arm(tuned(tmp_path / "a-b.json", 2))
    assert one.slug.casefold() != other.slug.casefold()
    strong, fits = f"{one.text},strength=0.5", one.fitted().slug
    assert parse_arm(strong).fitted().slug == fits
    tuned(tmp_path / "a" / "b.json", 3)
    assert parse_arm(strong).fitted().slug != fits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hipr", ["'hipr'", "did you mean hiper?"]),
        ("other-tails", ["did you mean other-tail?"]),
        ("", ["allowed are", *arm_names()]),
        ("hiper:papr", ["did you mean paper?"]),
        ("hiper,num_train_stpes=3", ["did you mean num_train_steps?"]),
        ("hiper,steps", ["has no value"]),
        ("hiper,num_train_steps=3,num_train_steps=4", ["given twice"]),
        ("hiper,num_train_steps=0", ["num_train_steps is '0'", "from 1"]),
        ("hiper,seed=-1", ["random"]),
        ("truth,steps=3", ["takes no preset and no options"]),
        ("source:paper", ["takes no preset and no options"]),
        ("none,num_train_steps=3", ["'num_train_steps'", "guidance_scale, num_inference_steps, scheduler"]),
        ("spelled-out,scheduler=dimm", ["scheduler is 'dimm'"]),
    ],
)
def test_mistaken_arms_are_refused(text: str, words: list[str]) -> None:
    with pytest.raises(OptionError) as refused:
        parse_arm(text)
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)


def test_no_arm_is_refused() -> None:
    with pytest.raises(OptionError, match="no arm"):
        parse_arms([])


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(OptionError, match=r"'criters'.*\.toml file \(did you mean critters\?\)"):
        open_suite(SuiteSpec(name="criters"))


# what a suite must offer


class _Bare(Suite):
    """One subject, no true answer."""

    def __init__(self, whole: Suite) -> None:
        self._whole = whole

    def identity(self) -> dict[str, str | int]:
        return {}

    def subjects(self) -> list[str]:
        return ["ann"]

    def cases(self, subject: str) -> list[Case]:
        return [replace(each, truth=None) for each in self._whole.cases(subject)]

    metrics = SmallSuite.metrics
    score = SmallSuite.score


@pytest.mark.parametrize("name", ["truth", "spelled-out", "other-tail"])
def test_a_suite_that_lacks_what_a_yardstick_needs(suite: Suite, name: str) -> None:
    check_suite([parse_arm(name)], suite)
    with pytest.raises(OptionError, match=f"arm {name} needs"):
        check_suite([parse_arm("hiper"), parse_arm(name)], _Bare(suite))
    check_suite(parse_arms(["hiper", "none", "source", "random-tail"]), _Bare(suite))


def test_settings_that_the_model_cannot_have(sd1: Backbone) -> None:
    assert drawing_settings(parse_arm("none"), sd1).guidance_scale == sd1.default_guidance_scale
    assert drawing_settings(parse_arm("hiper:paper"), sd1).guidance_scale == 7.5
    assert (
        drawing_settings(parse_arm("none,num_inference_steps=3,scheduler=euler"), sd1).num_inference_steps
        == 3
    )
    sd1_steps = sd1.timesteps
    assert (
        drawing_settings(parse_arm(f"none,num_inference_steps={sd1_steps}"), sd1).num_inference_steps
        == sd1_steps
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:method ddim-inversion draws the same picture")
@pytest.mark.filterwarnings("ignore:this does not look like the cartoon animals")
@pytest.mark.filterwarnings("ignore:the (caption|prompt) has words")
@pytest.mark.parametrize("method", ["sdedit", "ddim-inversion"])
def test_methods_that_walk_draw_by_what_they_walk_by(
    suite: Suite, tmp_path: Path, critters: Backbone, method: str
) -> None:
    model = critters
    assert model.schedulers[0] != walks_by(model)
    arm = parse_arm(f"{method},num_inference_steps=3")
    drawn = ArmSampler(model, Fits(tmp_path, suite, model, lambda: None), lambda: None).draw(
        arm, case(suite), SEEDS
    )
    subject = Subject.from_image(case(suite).source, caption=case(suite).source_caption)
    options = get_method(method).options(num_inference_steps=3)
    artifact = get_method(method).fit(model, subject, options)
    by_hand = edit(model, artifact, case(suite).target_caption, seeds=SEEDS)
    assert [image.tobytes() for image in drawn.images] == [image.tobytes() for image in by_hand.images]
    assert drawn.settings == {**drawn.settings, "scheduler": "ddim", "num_inference_steps": 3}
    assert (
        drawing_settings(parse_arm(method), model).num_inference_steps
        == walk_steps(model)
        != model.default_num_inference_steps
    )


# what they draw


@pytest.mark.slow
def test_a_method_is_what_the_package_does(suite: Suite, sampler: ArmSampler, sd1: Backbone) -> None:
    given, arm = case(suite), parse_arm(f"hiper,{QUICK}")
    drawn = sampler.draw(arm, given, SEEDS)
    method = get_method("hiper")
    subject = Subject.from_image(given.source, caption=given.source_caption)
    artifact = method.fit(sd1, subject, method.options(num_train_steps=2, batch=2, num_inference_steps=2))
    expected = edit(sd1, artifact, given.target_caption, seeds=SEEDS)
    assert same(drawn, Drawn(images=expected.images, prompt="", settings={}))
    assert drawn.settings == {
        "strength": 0.8,
        "guidance_scale": 7.5,
        "num_inference_steps": 2,
        "scheduler": "ddim",
        "keep": 0.5,
    }
    assert drawn.fit is not None
    assert torch.equal(drawn.fit.artifact.tensors["tail"], artifact.tensors["tail"])
    assert drawn.seconds is not None


def test_the_floor_is_the_sentence_alone(suite: Suite, sampler: ArmSampler) -> None:
    """Only the sentence counts, not whose picture it is."""
    drawn = sampler.draw(parse_arm("none,num_inference_steps=2"), case(suite), SEEDS)
    other_subject = sampler.draw(parse_arm("none,num_inference_steps=2"), case(suite, "ben"), SEEDS)
    other_edit = sampler.draw(parse_arm("none,num_inference_steps=2"), suite.cases("ann")[1], SEEDS)
    assert same(drawn, other_subject)
    assert not same(drawn, other_edit)
    assert drawn.prompt == case(suite).target_caption
    assert drawn.fit is None
    first, second = arrays(drawn)
    assert not np.array_equal(first, second)


def test_a_picture_depends_on_its_own_seed_only(suite: Suite, sampler: ArmSampler) -> None:
    many = sampler.draw(parse_arm("none,num_inference_steps=2"), case(suite), range(6))
    last = sampler.draw(parse_arm("none,num_inference_steps=2"), case(suite), [5])
    apart = np.abs(arrays(many)[5].astype(int) - arrays(last)[0].astype(int))
    assert len(many.images) == 6
    assert apart.max() <= 1


def test_spelled_out_draws_the_sentence_of_the_truth(suite: Suite, sampler: ArmSampler) -> None:
    truth = case(suite).truth
    assert truth is not None
    drawn = sampler.draw(parse_arm("spelled-out,num_inference_steps=2"), case(suite), SEEDS)
    assert drawn.prompt == truth.spelled_out
    assert not same(drawn, sampler.draw(parse_arm("none,num_inference_steps=2"), case(suite), SEEDS))


def test_the_ceiling_is_the_truth_through_the_vae(suite: Suite, sampler: ArmSampler, sd1: Backbone) -> None:
    given = case(suite)
    assert given.truth is not None
    answer = fit_square(given.truth.image, tiny.RESOLUTION)
    expected = [sd1.decode(sd1.latents(answer, generator(seed)))[0] for seed in SEEDS]
    drawn = sampler.draw(parse_arm("truth"), given, SEEDS)
    assert same(drawn, Drawn(images=expected, prompt="", settings={}))
    assert drawn.seconds is None


def test_the_source_is_unchanged(suite: Suite, sampler: ArmSampler) -> None:
    drawn = sampler.draw(parse_arm("source"), case(suite), SEEDS)
    assert SIDE == 2 * tiny.RESOLUTION
    for picture in drawn.images:
        assert picture.size == (tiny.RESOLUTION, tiny.RESOLUTION)
        assert picture.getpixel((10, 16)) == (220, 30, 30)


@pytest.mark.slow
@pytest.mark.parametrize(("subject", "following"), [("ann", "ben"), ("cy", "ann")])
def test_the_other_tail_is_that_of_the_next_subject(
    suite: Suite, sampler: ArmSampler, fits: Fits, sd1: Backbone, subject: str, following: str
) -> None:
    drawn = sampler.draw(parse_arm(f"other-tail,{QUICK}"), case(suite, subject), SEEDS)
    theirs = fits.of(parse_arm(f"hiper,{QUICK}"), following).artifact
    expected = edit(sd1, theirs, case(suite, subject).target_caption, seeds=SEEDS, num_inference_steps=2)
    assert same(drawn, Drawn(images=expected.images, prompt="", settings={}))
    assert not same(drawn, sampler.draw(parse_arm(f"hiper,{QUICK}"), case(suite, subject), SEEDS))
    assert drawn.fit is None


def test_the_random_tail_has_the_norms_of_the_fit_and_its_own_direction(
    suite: Suite, sampler: ArmSampler, fits: Fits
) -> None:
    rows = fits.of(parse_arm(f"hiper,{QUICK}"), "ann").artifact.tensors["tail"]
    random = random_tail_of(rows, "ann")
    assert torch.allclose(random.norm(dim=1), rows.norm(dim=1))
    assert torch.equal(random, random_tail_of(rows, "ann"))
    assert not torch.allclose(random, random_tail_of(rows, "ben"))
    assert torch.nn.functional.cosine_similarity(random, rows).abs().max() < 0.9
    drawn = sampler.draw(parse_arm(f"random-tail,{QUICK}"), case(suite), SEEDS)
    assert not same(drawn, sampler.draw(parse_arm(f"hiper,{QUICK}"), case(suite), SEEDS))


@pytest.mark.slow
def test_fits_are_made_once(suite: Suite, sd1: Backbone, tmp_path: Path) -> None:
    fits = Fits(tmp_path, suite, sd1, lambda: None)
    arm = parse_arm(f"hiper,{QUICK}")
    ArmSampler(sd1, fits, lambda: None).draw(parse_arm(f"random-tail,{QUICK}"), case(suite), SEEDS)
    first = fits.of(arm, "ann")
    assert fits.of(arm, "ann").artifact.created == first.artifact.created
    assert first.bytes == (tmp_path / arm.fitted().slug / "ann.safetensors").stat().st_size
    assert [path.name for path in tmp_path.rglob("*.*")] == ["ann.safetensors"]


@pytest.mark.slow
def test_arms_that_differ_in_editing_alone_share_their_fits(
    suite: Suite, sd1: Backbone, tmp_path: Path
) -> None:
    """A shared fit remembers the settings of one arm; each draws with its own."""
    sampler = ArmSampler(sd1, Fits(tmp_path, suite, sd1, lambda: None), lambda: None)
    drawn = {}
    for settings in ("strength=0.8", "strength=0.3", "guidance_scale=2", "guidance_scale=none"):
        arm = parse_arm(f"hiper:paper,batch=20,num_inference_steps=2,num_train_steps=2,{settings}")
        drawn[settings] = sampler.draw(arm, case(suite), SEEDS)
        own = HiPer().fit(sd1, subject_of(suite), HiPer().options(arm.preset, **arm.changes))
        expected = edit(sd1, own, case(suite).target_caption, seeds=SEEDS)
        assert same(drawn[settings], Drawn(images=expected.images, prompt="", settings={}))
        assert drawn[settings].settings["guidance_scale"] == expected.settings.guidance_scale
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert not same(drawn["strength=0.8"], drawn["strength=0.3"])
    assert not same(drawn["strength=0.8"], drawn["guidance_scale=2"])


def subject_of(suite: Suite) -> Subject:
    return Subject.from_image(case(suite).source, caption=case(suite).source_caption)


@pytest.mark.slow
def test_a_source_may_be_learnt_from_another_caption(suite: Suite, sd1: Backbone, tmp_path: Path) -> None:
    fits = Fits(tmp_path, suite, sd1, lambda: None)
    own, vague = (fits.of(parse_arm(text), "ann").artifact for text in (f"hiper,{QUICK}", VAGUE))
    assert own.caption == case(suite).source_caption
    assert vague.caption == "a dog"
    assert len({parse_arm(f"hiper,{QUICK}").slug, parse_arm(VAGUE).slug}) == 2
    assert parse_arm(VAGUE).text == f"{parse_arm(f'hiper,{QUICK}').text},source_caption=vague"
    check_suite([parse_arm(VAGUE)], suite)
    with pytest.raises(OptionError, match=r"'wrong'.* vague"):
        check_suite([parse_arm("hiper,source_caption=wrong")], suite)
    with pytest.raises(OptionError, match="fits nothing, so no caption matters"):
        parse_arm("none,source_caption=vague")


@pytest.mark.parametrize("arm", [f"hiper,{QUICK}", "none,num_inference_steps=2"])
def test_a_signal_ends_fits_and_drawings(suite: Suite, sd1: Backbone, tmp_path: Path, arm: str) -> None:
    chosen: Arm = parse_arm(arm)
    fits = Fits(tmp_path, suite, sd1, lambda: 15)
    with pytest.raises(Interrupted) as stopped:
        ArmSampler(sd1, fits, lambda: 15).draw(chosen, case(suite), SEEDS)
    assert stopped.value.exit_status == 143
    assert not list(tmp_path.rglob("*.safetensors"))


# methods that fit for one sentence


@pytest.mark.slow
def test_a_method_that_needs_a_fit_per_sentence_gets_one(suite: Suite, sd1: Backbone, tmp_path: Path) -> None:
    fits = Fits(tmp_path, suite, sd1, lambda: None)
    arm = parse_arm("imagic,batch=1,num_inference_steps=2,num_train_steps=1,weight_steps=1")
    drawn = [ArmSampler(sd1, fits, lambda: None).draw(arm, each, [3]) for each in suite.cases("ann")]
    targets = [each.fit.artifact.options["target"] for each in drawn if each.fit]
    assert targets == [each.target_caption for each in suite.cases("ann")]
    names = [str(path.relative_to(tmp_path / arm.fitted().slug)) for path in tmp_path.rglob("*.safetensors")]
    assert sorted(names) == ["ann/dark.safetensors", "ann/moved.safetensors"]


def test_the_floor_that_keeps_is_an_arm_of_its_own() -> None:
    floor, kept, asked = (parse_arm(f"none{more}") for more in ("", ",keep_source=0.5", ",keep_source=0"))
    assert (floor.text, kept.text, asked.text) == ("none", "none,keep_source=0.5", "none")
    assert (floor.options["keep_source"], kept.options["keep_source"]) == (0.0, 0.5)
