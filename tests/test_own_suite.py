"""A suite of one's own photographs: what it offers, how it is scored, and every mistake in its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiper.bench import SuiteSpec, build_report, open_suite, run
from hiper.bench.toml_suite import OwnSuite
from hiper.cli import main
from hiper.errors import ImageError, OptionError, UserError
from hiper.images import fit_square
from hiper.metrics import ClipSimilarity, DinoSimilarity, StructureDistance
from tests import tiny
from tests.test_similarity import clip, dino, vit  # noqa: F401  # fixtures: folders of tiny models

REX = """
[[subject]]
name = "rex"
image = "photos/rex.png"
caption = "a standing  dog"
mask = "photos/mask.png"
edits = [{ name = "sitting", caption = "a sitting dog" }, { name = "on-grass", caption = "a dog on the grass" }]
"""
TOM = """
[[subject]]
name = "tom"
image = "photos/rex.png"
caption = "a cat"
edits = [{ name = "sitting", caption = "a sitting cat" }]
"""
REGION = REX.replace('a sitting dog"', 'a sitting dog", region = "photos/mask.png"')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    tiny.picture().save(tmp_path / "photos" / "rex.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (16, 16, 48, 48))
    mask.save(tmp_path / "photos" / "mask.png")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "pets.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_becomes_subjects_and_edits(folder: Path) -> None:
    suite = open_suite(SuiteSpec(name=str(written(folder, REX + TOM))))
    assert list(suite.subjects()) == ["rex", "tom"]
    first, second = suite.cases("rex")
    assert (first.subject, first.edit, first.target_caption) == ("rex", "sitting", "a sitting dog")
    assert second.edit == "on-grass"
    assert first.source_caption == "a standing dog"
    assert np.array_equal(np.asarray(first.source), np.asarray(tiny.picture()))
    assert first.mask is not None
    assert np.asarray(first.mask)[32, 32] == 255
    assert (first.truth, suite.cases("tom")[0].mask) == (None, None)
    assert (dict(suite.metrics()), dict(suite.score(first, first.source))) == ({}, {})


def test_a_subject_may_have_other_captions(folder: Path) -> None:
    plain, others = REX, REX + 'vague = "an  animal"\nwrong = "a cat"\n'
    (case, _), identity = (
        OwnSuite(written(folder, others)).cases("rex"),
        OwnSuite(written(folder, others)).identity(),
    )
    assert case.learnt_from("vague") == "an animal"
    assert case.learnt_from("wrong") == "a cat"
    assert case.learnt_from("") == "a standing dog"
    assert identity != OwnSuite(written(folder, plain)).identity()
    with pytest.raises(OptionError, match=r"subject tom: .* those of rex"):
        OwnSuite(written(folder, others + TOM))


def test_the_identity_follows_the_content(folder: Path) -> None:
    """Not the place of the file, nor its comments."""

    def content(text: str) -> object:
        return OwnSuite(written(folder, text)).identity()["content"]

    same = content(REX)
    assert content("# my dog\n" + REX) == same
    others = [REX.replace("a sitting dog", "a lying dog"), REX.replace("a standing", "a"), REX + TOM]
    assert len({same, *map(content, others)}) == 4
    Image.new("RGB", (64, 64), "red").save(folder / "photos" / "rex.png")
    assert content(REX) != same


@pytest.mark.slow
def test_scores_are_those_of_the_networks(folder: Path, clip: Path, dino: Path) -> None:  # noqa: F811
    models = f'[metrics]\nclip = "{clip}"\ndino = "{dino}"\n'
    suite = OwnSuite(written(folder, REX + models))
    case = suite.cases("rex")[0]
    picture = tiny.picture(32).rotate(90)
    source = fit_square(case.source, 32)
    networks = ClipSimilarity.load(clip), DinoSimilarity.load(dino)
    assert suite.score(case, picture) == {
        "clip_text": networks[0].text(picture, "a sitting dog"),
        "clip_image": networks[0].image(source, picture),
        "dino": networks[1].image(source, picture),
    }
    assert list(suite.metrics()) == ["clip_text", "clip_image", "dino"]
    only = OwnSuite(written(folder, REX + f'[metrics]\ndino = "{dino}"\n'))
    assert list(only.score(case, picture)) == list(only.metrics()) == ["dino"]
    assert only.identity() != OwnSuite(written(folder, REX)).identity()


def test_the_background_is_scored_where_an_edit_has_a_region(folder: Path, vit: Path) -> None:  # noqa: F811
    """Against the square of 32 pixels that a model sees, outside of the middle quarter of it."""
    path = written(folder, REGION + TOM + f'[metrics]\nstructure = "{vit}"\n')
    suite = OwnSuite(path)
    case, other = suite.cases("rex")
    source = fit_square(case.source, 32)
    inside, everywhere = source.copy(), source.point(lambda level: level // 2)
    inside.paste("red", (8, 8, 24, 24))
    black = [source.copy(), everywhere.copy()]
    for picture in black:
        picture.paste("black", (8, 8, 24, 24))
    outside = np.ones((32, 32), dtype=bool)
    outside[8:24, 8:24] = False
    error = (np.asarray(everywhere, dtype=float) - np.asarray(source, dtype=float))[outside]
    network = StructureDistance.load(vit)
    assert suite.score(case, everywhere) == {
        "structure_distance": network.distance(source, everywhere),
        "background_psnr": pytest.approx(-10 * np.log10(np.square(error / 255).mean())),
        "background_structure": network.distance(*black),
    }
    assert {**suite.score(case, inside), "structure_distance": 0} == {
        "structure_distance": 0,
        "background_psnr": 100,
        "background_structure": 0,
    }
    unknown = {"background_psnr": None, "background_structure": None}
    assert suite.score(other, inside) == {"structure_distance": network.distance(source, inside), **unknown}
    assert list(suite.metrics()) == list(suite.score(other, inside))

    identities = [suite.identity()]
    for paint in (0, 255):
        mask = Image.new("L", (64, 64), 255)
        mask.paste(paint, (0, 0, 8, 64))
        mask.save(folder / "photos" / "mask.png")
        suite = OwnSuite(path)
        identities.append(suite.identity())
    assert len({str(identity) for identity in identities}) == 3
    assert suite.score(suite.cases("rex")[0], inside).items() >= unknown.items()


def test_a_region_needs_no_network(folder: Path) -> None:
    suite = OwnSuite(written(folder, REGION))
    case = suite.cases("rex")[0]
    assert list(suite.metrics()) == ["background_psnr"]
    assert suite.score(case, case.source) == {"background_psnr": 100}
    assert suite.identity() != OwnSuite(written(folder, REX)).identity()


@pytest.mark.slow
def test_a_run_without_metrics_says_so(
    folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SuiteSpec(name=str(written(folder, REX + TOM)))
    out = folder / "run"
    assert run(spec, str(model_folder), ["source", "none,num_inference_steps=2"], out, seeds=1).drawn == 6
    report = build_report(out)
    assert any("nothing was scored" in note for note in report.notes)
    assert main(["bench", "report", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["metrics"], record["missing"]) == ({}, 0)
    page = (out / "report" / "report.html").read_text()
    assert page.count("<img") == 3 * 3
    assert "nothing was scored" in page


@pytest.mark.parametrize("arm", ["truth", "spelled-out"])
def test_baselines_that_need_the_truth_are_refused(folder: Path, model_folder: Path, arm: str) -> None:
    with pytest.raises(OptionError, match="true answers"):
        run(SuiteSpec(name=str(written(folder, REX))), str(model_folder), [arm], folder / "run")
    assert not (folder / "run").exists()


def test_it_has_no_splits(folder: Path) -> None:
    with pytest.raises(OptionError, match="no splits; leave --split away"):
        open_suite(SuiteSpec(name=str(written(folder, REX)), split="test"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["the file", "has no subject", "[[subject]]"]),
        ("subject = 3", ["has no subject"]),
        ("subject = [3]", ["subject 1", "is 3", "write a table"]),
        ("[[subject]", ["no TOML", "line 1"]),
        (REX.replace("[[subject]]", "[[subjects]]"), ["'subjects'", "did you mean subject?"]),
        (
            REX.replace('caption = "a standing', 'captoin = "a standing'),
            ["'captoin'", "did you mean caption?"],
        ),
        (REX.replace('name = "rex"', ""), ["subject 1", "no name is given"]),
        (REX.replace('"rex"', '"../rex"'), ["'../rex'", "letters a to z"]),
        (REX.replace('"rex"', '""'), ["name is ''"]),
        (REX.replace('"rex"', "3"), ["name is 3"]),
        (REX + REX.replace('"rex"', '"Rex"'), ["subject 2", "'Rex' is given twice"]),
        (REX.replace('"on-grass"', '"sitting"'), ["edit 2", "'sitting' is given twice"]),
        (REX.replace('"on-grass"', '"on grass"'), ["subject rex, edit 2", "'on grass'"]),
        (REX.split("edits")[0], ["subject rex", "has no edits"]),
        (REX.split("edits")[0] + "edits = []", ["has no edits"]),
        (REX.split("edits")[0] + 'edits = ["sitting"]', ["edit 1", "'sitting'"]),
        (REX.replace(', caption = "a sitting dog"', ""), ["edit 1", "no caption is given"]),
        (REX.replace("rex.png", "max.png"), ["subject rex", "max.png", "no such file"]),
        (REX.replace("mask.png", "rax.png"), ["subject rex", "rax.png"]),
        (
            REGION.replace("region", "regoin"),
            ["subject rex, edit 1", "'regoin'", "did you mean region?"],
        ),
        (REGION.replace('region = "photos/mask.png"', "region = 3"), ["edit 1", "region is 3"]),
        (REGION.replace('region = "photos/mask', 'region = "photos/rax'), ["edit 1", "rax.png"]),
        (REGION.replace('region = "photos/mask', 'region = "photos/black'), ["edit 1", "selects nothing"]),
        (
            REGION.replace('region = "photos/mask', 'region = "photos/wide'),
            ["edit 1", "80x64", "64x64", "same size"],
        ),
        (REX + '[metrics]\nstructure = "photos"', ["[metrics]", "photos", "ViTModel"]),
        (REX + '[metrics]\nclp = "x"', ["[metrics]", "'clp'", "did you mean clip?"]),
        (REX + "[metrics]\nclip = 3", ["[metrics]", "clip is 3"]),
        (REX + '[metrics]\nclip = "photos"', ["photos"]),
        (REX + '[metrics]\nclip = "nobody/no-clip"', ["nobody/no-clip", "hf download"]),
    ],
)
def test_mistakes_are_told_in_one_line(folder: Path, text: str, words: list[str]) -> None:
    Image.new("L", (64, 64), 0).save(folder / "photos" / "black.png")
    Image.new("L", (80, 64), 255).save(folder / "photos" / "wide.png")
    with pytest.raises(UserError) as refused:
        OwnSuite(written(folder, text))
    message = str(refused.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert "pets.toml" in message


def test_files_that_cannot_be_read(folder: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.toml.*No such file"):
        OwnSuite(folder / "none.toml")
    (folder / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(OptionError, match="no TOML"):
        OwnSuite(folder / "latin.toml")
    (folder / "device.toml").symlink_to("/dev/null")
    with pytest.raises(OptionError, match="no ordinary file"):
        OwnSuite(folder / "device.toml")
    (folder / "photos" / "rex.png").write_bytes(b"rubbish")
    with pytest.raises(ImageError, match=r"pets\.toml.*subject rex.*rex\.png"):
        OwnSuite(written(folder, REX))
