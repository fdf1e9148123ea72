"""The command line on a tiny real model, in this process: what it draws, writes, prints and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hiper
from hiper.artifacts import Artifact
from hiper.cli.arguments import method_options, with_joined_options
from hiper.cli.progress import Lines
from hiper.errors import OptionError
from hiper.options import method_names
from hiper.training import duration
from tests import tiny
from tests.conftest import Cli
from tests.processes import Outcome

CAPTION = "a standing dog"
SMALL = "only 64x64 pixels: a model that draws larger pictures sees it enlarged"


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


# importing and helping


def test_help_and_import_load_no_heavy_library() -> None:
    script = """
import sys
import hiper, hiper.backbones, hiper.methods
assert dir(hiper)
from hiper.cli import main
for command in ([], ["--help"], ["fit", "--help"], ["run", "--help"], ["backbones"], ["--version"]):
    assert main(command) == 0
heavy = "torch numpy PIL diffusers transformers safetensors rich accelerate peft bitsandbytes ray gradio"
assert not set(heavy.split()) & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: hiper") == 4
    assert done.stderr == ""


def test_the_help_lists_the_commands_by_what_they_are_for(cli: Cli) -> None:
    help_text = cli("-h").out
    assert help_text == cli("--help").out
    headings = [help_text.index(f"\n{name}:\n") for name in ("Start here", "More", "Measure", "System")]
    assert headings == sorted(headings)
    assert cli("bench", "run", "-h").out == cli("bench", "run", "--help").out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fit", "-o", "num_train_steps", "3", "x"], ["fit", "-o", "num_train_steps=3", "x"]),
        (
            ["-o", "num_train_steps=3", "--option", "tail", "-1"],
            ["-o", "num_train_steps=3", "--option", "tail=-1"],
        ),
        (["-o", "num_train_steps"], ["-o", "num_train_steps"]),
        (["--", "-o", "a", "b"], ["--", "-o", "a", "b"]),
    ],
)
def test_method_options_in_both_spellings(words: list[str], expected: list[str]) -> None:
    assert with_joined_options(words) == expected


def test_method_options_are_given_once() -> None:
    assert method_options(["learning-rate=1e-3", "keep = best"], 4) == {
        "seed": 4,
        "learning_rate": "1e-3",
        "keep": "best",
    }
    with pytest.raises(OptionError, match="twice"):
        method_options(["seed=1"], 4)
    with pytest.raises(OptionError, match="name=value"):
        method_options(["num_train_steps"], None)


# fit and show


@pytest.mark.slow
def test_fit_writes_one_file_and_says_so_in_json(
    cli: Cli, tmp_path: Path, model_folder: Path, dog: Path
) -> None:
    out = tmp_path / "dog.safetensors"
    arguments = ("--caption", CAPTION, "--backbone", model_folder, "--out", out, "--seed", "7", "--json")
    done = cli("fit", dog, *arguments, "-o", "num_train_steps", "4", "-o", "tail=3", "--preset", "paper")
    record = json.loads(done.out)
    artifact = Artifact.load(out)
    assert done.status == 0
    assert record["artifact"] == str(out)
    assert record["options"] == dict(artifact.options)
    assert (artifact.options["num_train_steps"], artifact.options["batch"], artifact.seed) == (4, 1, 7)
    assert artifact.tensors["tail"].shape == (3, tiny.EMBED)
    assert (artifact.caption, record["notes"]) == (CAPTION, [SMALL])
    assert "fitting: 4 of 4" in done.err
    assert list(tmp_path.glob("dog.*")) == [out]


@pytest.mark.slow
def test_quiet_prints_nothing(cli: Cli, tmp_path: Path, model_folder: Path, dog: Path) -> None:
    out = tmp_path / "dog.safetensors"
    arguments = (
        "--caption",
        "",
        "--backbone",
        model_folder,
        "--out",
        out,
        "-o",
        "num_train_steps=1",
        "--quiet",
    )
    assert cli("fit", dog, *arguments) == Outcome(status=0, out="", err="")
    assert out.exists()


@pytest.mark.slow
def test_notes_are_single_lines_and_come_once(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    dog = tmp_path / "dog.gif"
    frames = [tiny.picture(), tiny.picture().rotate(90)]
    frames[0].save(dog, save_all=True, append_images=frames[1:])
    out = tmp_path / "dog.safetensors"
    done = cli(
        "fit", dog, "--caption", "", "--backbone", model_folder, "--out", out, "-o", "num_train_steps=1"
    )
    notes = [line for line in done.err.splitlines() if line.startswith("hiper: note: ")]
    assert done.status == 0
    assert len([note for note in notes if "frame 0 of 2" in note]) == 1
    assert "hiper: note: the caption is empty" in notes
    assert len(notes) == 3


@pytest.mark.slow
def test_a_random_seed_is_told(cli: Cli, tmp_path: Path, model_folder: Path, dog: Path) -> None:
    out = tmp_path / "dog.safetensors"
    arguments = ("--caption", CAPTION, "--backbone", model_folder, "--out", out, "-o", "num_train_steps=1")
    done = cli("fit", dog, *arguments, "--seed", "-1")
    assert f"seed is {Artifact.load(out).seed}, chosen at random" in done.err


def test_show_prints_what_the_file_says(cli: Cli, tail: Path) -> None:
    artifact = Artifact.load(tail)
    assert json.loads(cli("show", tail, "--json").out) == {
        "file": str(tail),
        **artifact.describe(),
        "notes": [],
    }
    lines = cli("show", tail).out.splitlines()
    assert f"caption       {CAPTION}" in lines
    assert any(line.startswith("created ") and line.endswith("+00:00") for line in lines)


def test_control_characters_of_a_stranger_do_not_reach_the_terminal(
    cli: Cli, tail: Path, tmp_path: Path
) -> None:
    hostile = replace(Artifact.load(tail), caption="\x1b]0;owned\x07\nhiper: note: forged\u202e")
    shown = cli("show", hostile.save(tmp_path / "hostile.safetensors")).out
    assert all(character.isprintable() for character in shown.replace("\n", ""))
    assert "hiper: note: forged" not in shown.splitlines()


@pytest.mark.slow
def test_import_takes_over_a_reference_tail(cli: Cli, tmp_path: Path, model_folder: Path) -> None:
    rows = torch.randn(1, 5, tiny.EMBED)
    torch.save(rows, tmp_path / "hper.pt")
    out = tmp_path / "dog.safetensors"
    arguments = ("--caption", CAPTION, "--backbone", model_folder, "--out", out, "--json")
    assert json.loads(cli("import", tmp_path / "hper.pt", *arguments).out)["caption"] == CAPTION
    assert torch.equal(Artifact.load(out).tensors["tail"], rows[0])
    cli("import", tmp_path / "hper.pt", *arguments).refusal("exists", "--overwrite")


def test_listings(cli: Cli) -> None:
    assert cli("methods").out.split() == method_names()
    assert "critters" in cli("backbones").out
    assert "StableDiffusionXLPipeline" in json.loads(cli("backbones", "--json").out)["pipelines"]


# edit


@pytest.mark.slow
def test_edit_draws_what_the_package_draws(cli: Cli, tmp_path: Path, model_folder: Path, tail: Path) -> None:
    arguments = (
        *("--images", "3", "--seed", "5", "--num-inference-steps", "2", "--strength", "1.5"),
        *("--batch-size", "2"),
    )
    done = cli("edit", tail, "a sitting dog", *arguments, "--out", tmp_path / "new" / "edits")
    paths = [Path(line) for line in done.out.splitlines()]
    backbone = hiper.load_backbone(model_folder, device="cpu")
    expected = hiper.edit(
        backbone,
        Artifact.load(tail),
        "a sitting dog",
        seeds=[5, 6, 7],
        num_inference_steps=2,
        strength=1.5,
        batch_size=2,
    )
    assert done.status == 0
    assert [path.name for path in paths] == [f"a-sitting-dog-{seed}.png" for seed in (5, 6, 7)]
    assert sorted((tmp_path / "new" / "edits").iterdir()) == paths
    for path, image in zip(paths, expected.images, strict=True):
        assert np.array_equal(pixels(path), np.asarray(image))


@pytest.mark.slow
def test_a_picture_tells_how_to_draw_it_again(
    cli: Cli, tmp_path: Path, model_folder: Path, tail: Path
) -> None:
    arguments = ("--seed", "9", "--num-inference-steps", "2", "--height", "40", "--negative-prompt", "red")
    record = json.loads(cli("edit", tail, "a blue cat", *arguments, "--out", tmp_path, "--json").out)
    path = Path(record["images"][0]["path"])
    data = path.read_bytes()
    with Image.open(path) as image:
        chunk = json.loads(image.info["hiper"])
    assert {key: chunk[key] for key in record["settings"]} == record["settings"]
    assert (chunk["prompt"], chunk["seed"], chunk["caption"]) == ("a blue cat", 9, CAPTION)
    assert chunk["backbone"] == model_folder.name
    assert str(model_folder.parent).encode() not in data
    assert str(tail).encode() not in data
    again = ("--seed", str(chunk["seed"]), "--negative-prompt", chunk["negative_prompt"][0])
    keys = ("num_inference_steps", "height", "width", "strength")
    settings = [word for key in keys for word in (f"--{key.replace('_', '-')}", str(chunk[key]))]
    cli("edit", tail, chunk["prompt"], *again, *settings, "--out", tmp_path / "again", "--no-metadata")
    with Image.open(tmp_path / "again" / path.name) as image:
        assert image.info == {}
        assert np.array_equal(np.asarray(image), pixels(path))


@pytest.mark.slow
def test_file_names_of_any_sentences(cli: Cli, tmp_path: Path, tail: Path) -> None:
    """They stay in the folder and apart from each other, whatever the sentences are made of."""
    prompts = ["../../a dog", "A  dog!", "a dog", "a dog", "\U0001f415/\U0001f408", "собака"]
    done = cli("edit", tail, *prompts, "--num-inference-steps", "1", "--out", tmp_path / "deep" / "edits")
    names = [Path(line).name for line in done.out.splitlines()]
    assert done.status == 0
    assert names[:3] == ["a-dog-0.png", "A-dog-2-0.png", "a-dog-3-0.png"]
    assert names[4] == "собака-0.png"
    assert len(names) == 5
    assert "drawn once" in done.err
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == sorted(names)
    assert {path.parent for path in tmp_path.rglob("*.png")} == {tmp_path / "deep" / "edits"}


@pytest.mark.slow
def test_sizes_are_rounded_and_random_seeds_told(cli: Cli, tmp_path: Path, tail: Path) -> None:
    arguments = (
        *("--height", "37", "--width", "24", "--seed", "-1", "--images", "2"),
        *("--num-inference-steps", "1"),
    )
    done = cli("edit", tail, "a dog", *arguments, "--out", tmp_path, "--json")
    record = json.loads(done.out)
    first, second = (image["seed"] for image in record["images"])
    assert pixels(record["images"][0]["path"]).shape == (40, 24, 3)
    assert second == first + 1
    assert any(f"seed is {first}, drawn at random" in note for note in record["notes"])
    assert len([note for note in record["notes"] if "height 37" in note]) == 1


@pytest.mark.slow
def test_words_that_do_not_fit_are_told(cli: Cli, tmp_path: Path, tail: Path) -> None:
    done = cli(
        "edit", tail, " ".join(["dog"] * 73 + ["zebra"]), "--num-inference-steps", "1", "--out", tmp_path
    )
    assert done.status == 0
    assert "hiper: note: " in done.err
    assert "zebra" in done.err


@pytest.mark.slow
def test_another_checkpoint_of_the_family_is_told(cli: Cli, tmp_path: Path, tail: Path) -> None:
    tiny.pipeline(seed=1).save_pretrained(tmp_path / "other")
    done = cli(
        "edit",
        tail,
        "a dog",
        "--num-inference-steps",
        "1",
        "--out",
        tmp_path,
        "--backbone",
        tmp_path / "other",
    )
    assert done.status == 0
    assert "weights differ" in done.err


# run


@pytest.mark.slow
def test_run_fits_once_per_question(cli: Cli, tmp_path: Path, model_folder: Path, dog: Path) -> None:
    def run(name: str, caption: str = CAPTION, **options: str) -> dict[str, Any]:
        given = [
            word for key, value in {"num_train_steps": "3", **options}.items() for word in ("-o", key, value)
        ]
        model = ("--caption", caption, "--backbone", model_folder, *given)
        done = cli(
            "run",
            dog,
            "a dog",
            "a cat",
            *model,
            "--num-inference-steps",
            "1",
            "--out",
            tmp_path / name,
            "--json",
        )
        assert done.status == 0, done
        record: dict[str, Any] = json.loads(done.out)
        return record

    first, again = run("1"), run("2")
    assert (first["reused"], again["reused"]) == (False, True)
    assert first["artifact"] == again["artifact"]
    for one, other in zip(first["images"], again["images"], strict=True):
        assert np.array_equal(pixels(one["path"]), pixels(other["path"]))
    assert len(first["images"]) == 2
    assert not run("3", caption="a dog")["reused"]
    assert not run("4", tail="4")["reused"]
    Path(first["artifact"]).write_bytes(b"rubbish")
    mended = run("5")
    assert not mended["reused"]
    assert any("not used" in note for note in mended["notes"])
    assert Artifact.load(first["artifact"]).caption == CAPTION
    Path(first["artifact"]).unlink()
    Path(first["artifact"]).mkdir()
    model = ("--caption", CAPTION, "--backbone", model_folder, "-o", "num_train_steps=3")
    stopped = cli("run", dog, "a dog", *model, "--out", tmp_path / "6")
    assert stopped.status == 2
    assert f"{first['artifact']!r} is a folder" in stopped.err.splitlines()[-1]
    assert "fitting" not in stopped.err


@pytest.mark.slow
def test_run_tells_models_apart_by_every_weight(
    cli: Cli, tmp_path: Path, model_folder: Path, dog: Path
) -> None:
    """Also by those of the picture encoder, which the fingerprint leaves out."""
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    arguments = (
        *("--caption", CAPTION, "--backbone", model, "-o", "num_train_steps=2"),
        *("--num-inference-steps", "1", "--json"),
    )
    first = json.loads(cli("run", dog, "a dog", *arguments, "--out", tmp_path / "1").out)
    pipe = tiny.pipeline(seed=0, vae=tiny.vae())
    pipe.vae.save_pretrained(model / "vae")
    second = json.loads(cli("run", dog, "a dog", *arguments, "--out", tmp_path / "2").out)
    assert not second["reused"]
    fingerprints = [Artifact.load(record["artifact"]).fingerprint for record in (first, second)]
    assert fingerprints[0] == fingerprints[1]


# mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fti", "x"], ["fti", "fit"]),
        (["edit", "x", "a dog", "--out", "e", "--imags", "3"], ["--imags", "--images"]),
        (["fit", "DOG"], ["--caption"]),
        (
            ["fit", "DOG", "--caption", "c", "--out", "OUT", "--method", "hipr"],
            ["'hipr'", "did you mean hiper"],
        ),
        (
            ["fit", "DOG", "--caption", "c", "--out", "OUT", "--preset", "papr"],
            ["'papr'", "did you mean paper"],
        ),
        (
            ["fit", "DOG", "--caption", "c", "--out", "OUT", "-o", "num_train_stpes=3"],
            ["did you mean num_train_steps"],
        ),
        (
            ["fit", "DOG", "--caption", "c", "--out", "OUT", "--backbone", "criters", "--quiet"],
            ["did you mean critters"],
        ),
        (["fit", "DOG", "--caption", "c", "--out", "OUT", "--background", "pinkish"], ["'pinkish'"]),
        (["fit", "DOG", "--caption", "c", "--out", "OUT", "--resume", "--force"], ["--resume", "--force"]),
        (["fit", "DOG", "--caption", "c", "--out", "missing/OUT"], ["no folder", "missing"]),
        (["fit", "none.png", "--caption", "c", "--out", "OUT"], ["'none.png'", "no such file"]),
        (["fit", ".", "--caption", "c", "--out", "OUT"], ["a directory"]),
        (["show", "none.safetensors"], ["none.safetensors"]),
        (["edit", "none.safetensors", "a dog", "--out", "e"], ["none.safetensors"]),
    ],
)
def test_a_mistake_is_told_in_one_line(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dog: Path,
    words: list[str],
    expected: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"DOG": str(dog), "OUT": "dog.safetensors"}
    cli(*(places.get(word, word) for word in words)).refusal(*expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", ["tail=0", "tail=65", "tail=-3", "tail=2.5", "tail=x", "num_train_steps=0", "batch=0"]
)
def test_fit_refuses_numbers_out_of_range(cli: Cli, tmp_path: Path, dog: Path, option: str) -> None:
    name, _, value = option.partition("=")
    done = cli("fit", dog, "--caption", "", "--out", tmp_path / "x", "-o", option, "--quiet")
    done.refusal(f"{name} is '{value}'", "allowed are whole numbers from 1")


@pytest.mark.parametrize("value", ["0", "nan", "inf", "1e3", "1,5"])
def test_fit_refuses_learning_rates_that_cannot_be_meant(
    cli: Cli, tmp_path: Path, dog: Path, value: str
) -> None:
    done = cli("fit", dog, "--caption", "", "--out", tmp_path / "x", "-o", "learning_rate", value, "--quiet")
    done.refusal(f"learning_rate is '{value}'", "allowed are numbers from 1e-08 to 10")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--seed", "abc"),
        ("--seed", "-2"),
        ("--seed", str(2**64)),
        ("--images", "0"),
        ("--num-inference-steps", "0"),
        ("--guidance-scale", "nan"),
        ("--guidance-scale", "1e9"),
        ("--strength", "inf"),
        ("--strength", "0,8"),
        ("--height", "0"),
        ("--batch-size", "0"),
        ("--scheduler", "dimm"),
        ("--seed", str(2**63 - 1)),
    ],
)
def test_edit_refuses_numbers_out_of_range(
    cli: Cli, tmp_path: Path, tail: Path, option: str, value: str
) -> None:
    images = () if option == "--images" else ("--images", "2")
    done = cli("edit", tail, "a dog", "--out", tmp_path / "e", option, value, *images, "--quiet")
    done.refusal(value.removesuffix("e9"))
    assert not list(tmp_path.rglob("*.png"))


def test_run_refuses_a_setting_of_the_edit_before_it_fits(
    cli: Cli, tmp_path: Path, dog: Path, model_folder: Path
) -> None:
    model = ("--caption", CAPTION, "--backbone", model_folder)
    done = cli("run", dog, "a dog", *model, "--scheduler", "dimm", "--out", tmp_path / "e", "--quiet")
    done.refusal("dimm", "did you mean ddim")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.slow
def test_existing_outputs_are_kept(cli: Cli, tmp_path: Path, tail: Path, dog: Path) -> None:
    mine = tmp_path / "a-dog-1.png"
    mine.write_bytes(b"mine")
    arguments = ("--images", "2", "--num-inference-steps", "1", "--out", tmp_path)
    cli("edit", tail, "a dog", *arguments, "--quiet").refusal("a-dog-1.png", "--overwrite")
    assert list(tmp_path.iterdir()) == [mine]
    assert mine.read_bytes() == b"mine"
    assert cli("edit", tail, "a dog", *arguments, "--overwrite").status == 0
    assert pixels(mine).shape == (tiny.RESOLUTION, tiny.RESOLUTION, 3)
    cli("fit", dog, "--caption", "", "--out", dog).refusal("dog.png", "exists")


def test_demo_keeps_files_in_a_folder_of_the_users_choice(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_bytes(b"mine")
    cli("demo", "--out", tmp_path, "--quiet").refusal("sheet.png", "--overwrite")
    assert (tmp_path / "sheet.png").read_bytes() == b"mine"


def test_a_tail_of_another_family_is_refused(cli: Cli, tmp_path: Path, tail: Path) -> None:
    other = replace(Artifact.load(tail), family="sd2").save(tmp_path / "other.safetensors")
    cli("edit", other, "a dog", "--out", tmp_path / "e", "--quiet").refusal("sd2", "fit again")


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "nan"])
def test_damaged_files_are_refused(cli: Cli, tmp_path: Path, tail: Path, damage: str) -> None:
    data = tail.read_bytes()
    nan = np.array([np.nan], np.float32).tobytes()
    damaged = {"empty": b"", "truncated": data[:-7], "garbage": b"\xff" * 500, "nan": data[:-4] + nan}
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged[damage])
    cli("show", path).refusal(str(path))
    cli("edit", path, "a dog", "--out", tmp_path / "e").refusal(str(path))
    assert not (tmp_path / "e").exists()


def test_a_model_that_only_the_file_names_is_not_downloaded(cli: Cli, tmp_path: Path, tail: Path) -> None:
    """The guard in conftest fails on any connection."""
    stranger = replace(Artifact.load(tail), backbone="somebody/some-model").save(tmp_path / "x.safetensors")
    cli("edit", stranger, "a dog", "--out", tmp_path / "e", "--quiet").refusal(
        "somebody/some-model", "hf download"
    )


# progress


def test_lines_tell_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = Lines(clock=lambda: now)
    for step in range(20, 101):
        lines("fitting", step, 100)
        now += 3.0
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "fitting"
    assert printed[1] == "fitting: 24 of 100, 20 a minute, 4 min left"
    assert printed[-1] == "fitting: 100 of 100, took 4 min"
    assert "fitting: 72 of 100, 20 a minute, 84 s left" in printed
    assert len(printed) == 2 + 19


def test_lines_of_a_length_that_nobody_knows_tell_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = Lines(clock=lambda: now)
    for tries in range(1, 6):
        lines("fits tried", tries, 0)
        now += 6.0
    assert capsys.readouterr().err.splitlines() == [
        "fits tried",
        "fits tried: 3, 10 a minute",
        "fits tried: 5, 10 a minute",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (7260, "2 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# several pictures of one subject


def test_more_than_one_picture_points_at_average(cli: Cli, tmp_path: Path, dog: Path) -> None:
    out = tmp_path / "x.safetensors"
    for words in (
        ("fit", dog, dog, "--caption", CAPTION, "--out", out),
        ("fit", "a.jpg", "b.jpg", "c.webp", "--caption", CAPTION, "--out", out),
        ("tune", dog, dog, "--caption", CAPTION, "--out", "mine"),
        ("run", dog, dog, "a sitting dog", "--caption", CAPTION, "--out", tmp_path / "pictures"),
    ):
        cli(*words).refusal("hiper average")
    cli("fit", dog, "a dog", "--caption", CAPTION, "--out", out).refusal("unexpected 'a dog'")
    subject = hiper.Subject.open(dog, caption=CAPTION)
    with pytest.raises(OptionError, match=r"hiper\.average"):
        hiper.fit(None, [subject, subject])  # type: ignore[arg-type]
