"""Pictures that tell how they were drawn: what they say, what they hide, and every chunk that is refused."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import hiper
from hiper.artifacts import Artifact, content_sha256, portable, public_name
from hiper.backbones.sd import SdBackbone
from hiper.errors import ImageError
from hiper.images import png_bytes
from hiper.inference import read_drawn, rerun, settings_of, text_chunks
from hiper.inference.picture_settings import ARTIFACT, LARGEST_ARTIFACT, PARAMETERS, SETTINGS
from tests.conftest import Cli

PROMPT = "a sitting dog"


@pytest.fixture(scope="module")
def drawn(sd1: SdBackbone, artifact: Artifact) -> hiper.EditResult:
    return hiper.edit(
        sd1,
        artifact,
        PROMPT,
        seeds=range(3, 8),
        num_inference_steps=2,
        height=40,
        keep=0,
        batch_size=3,
        negative_prompt=["", "red", "a: blue", 'a "cat"', "grass"],
    )


@pytest.fixture(scope="module")
def chunks(sd1: SdBackbone, artifact: Artifact, drawn: hiper.EditResult) -> dict[str, str]:
    return text_chunks(settings_of(sd1, artifact, drawn, 6), artifact)


def write(path: Path, chunks: Mapping[str, str], size: tuple[int, int] = (32, 40)) -> Path:
    path.write_bytes(png_bytes(Image.new("RGB", size), metadata=chunks))
    return path


def changed(chunks: Mapping[str, str], **values: Any) -> dict[str, str]:
    return {**chunks, SETTINGS: json.dumps({**json.loads(chunks[SETTINGS]), **values})}


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_drawn(path)
    text = str(caught.value)
    assert text.startswith(f"'{path}': ")
    assert "\n" not in text
    return text


# what a picture says


def test_what_was_written_is_read_again(
    tmp_path: Path, sd1: SdBackbone, artifact: Artifact, drawn: hiper.EditResult, chunks: Mapping[str, str]
) -> None:
    found = read_drawn(write(tmp_path / "a.png", chunks))
    assert found.settings == settings_of(sd1, artifact, drawn, 6)
    assert (found.settings.seed, found.settings.batch) == (6, (6, 7))
    assert found.settings.negative_prompt == ('a "cat"', "grass")
    assert found.artifact is not None
    assert torch.equal(found.artifact.tensors["tail"], artifact.tensors["tail"])
    assert (found.artifact.edit, found.artifact.options) == (artifact.edit, artifact.options)


@pytest.mark.parametrize("seed", range(3, 8))
def test_each_picture_of_every_batch_is_drawn_again_bit_for_bit(
    tmp_path: Path, sd1: SdBackbone, artifact: Artifact, drawn: hiper.EditResult, seed: int
) -> None:
    image = drawn.images[drawn.seeds.index(seed)]
    chunks = text_chunks(settings_of(sd1, artifact, drawn, seed), artifact)
    (tmp_path / "a.png").write_bytes(png_bytes(image, metadata=chunks))
    found = read_drawn(tmp_path / "a.png")
    assert found.artifact is not None
    again = rerun(found, sd1, found.artifact)
    assert again.image.tobytes() == image.tobytes()
    assert (again.changed, again.most) == (0, 0)


def test_a_difference_is_counted(
    tmp_path: Path, sd1: SdBackbone, artifact: Artifact, drawn: hiper.EditResult
) -> None:
    image = drawn.images[0].copy()
    red, green, blue = image.getpixel((5, 7))  # type: ignore[misc]
    image.putpixel((5, 7), (red, green, (blue + 100) % 256))
    chunks = text_chunks(settings_of(sd1, artifact, drawn, 3), artifact)
    (tmp_path / "a.png").write_bytes(png_bytes(image, metadata=chunks))
    again = rerun(read_drawn(tmp_path / "a.png"), sd1, artifact)
    assert again.changed == 1
    assert again.most in (100, 156)


def test_galleries_find_the_settings_in_their_own_form(chunks: Mapping[str, str]) -> None:
    """Prompt, "Negative prompt:", and a line of `name: value` whose awkward values are JSON in quotes."""
    prompt, negative, line = chunks[PARAMETERS].split("\n")
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', line)
    values = {name: json.loads(text) if text.startswith('"') else text for name, text in pairs}
    assert (prompt, negative) == (PROMPT, 'Negative prompt: a "cat"')
    assert (values["Steps"], values["Sampler"], values["Seed"]) == ("2", "DDIM", "6")
    assert (values["Size"], float(values["CFG scale"])) == ("32x40", 7.5)
    assert values["HiPer caption"] == "a standing dog"


def test_awkward_names_stay_one_value(sd1: SdBackbone, artifact: Artifact, drawn: hiper.EditResult) -> None:
    caption = 'a dog, Steps: 99, "so"'
    settings = settings_of(sd1, replace(artifact, caption=caption), drawn, 3)
    line = text_chunks(settings, None)[PARAMETERS].splitlines()[-1]
    found = re.search(r'HiPer caption: ("(?:\\.|[^\\"])+")', line)
    assert found is not None
    assert json.loads(found[1]) == caption


# what a picture does not say


@pytest.mark.parametrize(
    "place", ["/home/alice/models/sd15", r"C:\Users\alice\sd15", "models/alice/../sd15/"]
)
def test_no_path_and_no_picture_of_the_subject_leaves_the_computer(
    sd1: SdBackbone, artifact: Artifact, drawn: hiper.EditResult, place: str
) -> None:
    named = replace(artifact, backbone=place, extra={"workflow": "/home/alice/flow.json"})
    chunks = text_chunks(replace(settings_of(sd1, named, drawn, 3)), named)
    carried = Artifact.parse(base64.b64decode(chunks[ARTIFACT]))
    assert named.thumbnail.startswith("data:image/jpeg")
    assert (carried.backbone, carried.thumbnail, dict(carried.extra)) == ("sd15", "", {})
    everything = "".join(chunks.values()).encode() + base64.b64decode(chunks[ARTIFACT])
    assert b"alice" not in everything
    assert content_sha256(named) == content_sha256(carried) == content_sha256(portable(carried))


def test_names_that_are_public_stay() -> None:
    assert public_name("critters", "") == "critters"
    assert public_name("owner/model", "0123abc") == "owner/model"
    assert public_name("owner/model", "") == "model"


def test_a_large_artifact_is_not_carried(
    sd1: SdBackbone, artifact: Artifact, drawn: hiper.EditResult
) -> None:
    wide = replace(artifact, tensors={"tail": torch.zeros(5, 4096)})
    huge = replace(artifact, tensors={"tail": torch.zeros(1024, LARGEST_ARTIFACT // 4096)})
    assert ARTIFACT in text_chunks(settings_of(sd1, wide, drawn, 3), wide)
    assert ARTIFACT not in text_chunks(settings_of(sd1, huge, drawn, 3), huge)


# chunks of strangers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "no JSON"),
        ("[1]", "no schema"),
        ("{}", "no schema"),
        ('{"schema": Infinity}', "no JSON"),
        ('{"schema": 2}', "schema is 2"),
        ('{"schema": {"a": 1}}', "schema is"),
        ('{"schema": 1}', "missing or unknown"),
        ("[" * 100_000, "no JSON"),
        ("9" * 10_000, "no JSON"),
        ("x" * 1_100_000, "at most"),
    ],
)
def test_settings_of_another_kind_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path / "a.png", {SETTINGS: text}))


@pytest.mark.parametrize(
    "values",
    [
        {"seed": "6"},
        {"seed": True},
        {"seed": 6.0},
        {"num_inference_steps": None},
        {"strength": "0.8"},
        {"strength": 10**400},
        {"batch": []},
        {"batch": [6, "7"]},
        {"negative_prompt": "red"},
        {"prompt": ["a dog"]},
        {"versions": {"torch": 2}},
        {"prompt": {"a": "dog"}},
        {"command": "rm"},
    ],
)
def test_impossible_values_are_refused(
    tmp_path: Path, chunks: Mapping[str, str], values: Mapping[str, Any]
) -> None:
    text = refusal(write(tmp_path / "a.png", changed(chunks, **values)))
    assert next(iter(values)) in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"batch": [1, 2]}, "seed"),
        ({"width": 320}, "320x40"),
        ({"artifact_sha256": "0" * 64}, "drawn with the artifact"),
    ],
)
def test_settings_that_contradict_the_picture_are_refused(
    tmp_path: Path, chunks: Mapping[str, str], values: Mapping[str, Any], expected: str
) -> None:
    assert expected in refusal(write(tmp_path / "a.png", changed(chunks, **values)))


@pytest.mark.parametrize("data", ["%%%", "é", "", base64.b64encode(b"x" * 200).decode(), "QUJD" * 45_000])
def test_an_artifact_that_is_none_is_refused(tmp_path: Path, chunks: Mapping[str, str], data: str) -> None:
    assert "cannot be used" in refusal(write(tmp_path / "a.png", {**chunks, ARTIFACT: data}))


def test_a_pickle_in_the_place_of_the_artifact_is_not_opened(
    tmp_path: Path, chunks: Mapping[str, str]
) -> None:
    torch.save({"tail": torch.zeros(5, 32)}, tmp_path / "x.pt")
    data = base64.b64encode((tmp_path / "x.pt").read_bytes()).decode()
    assert "pickle" in refusal(write(tmp_path / "a.png", {**chunks, ARTIFACT: data}))


def png(*extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of one pixel, written by hand, with chunks after its header."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)), *extra]
    parts += [(b"IDAT", zlib.compress(b"\0\1\2\3")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


BOMB = zlib.compress(b"9" * 50_000_000)
HUGE = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png((b"zTXt", b"hiper\0\0" + BOMB)), "too large", id="zTXt bomb"),
        pytest.param(png((b"iTXt", b"hiper\0\1\0\0\0" + BOMB)), "too large", id="iTXt bomb"),
        # Pillow takes what is not packed at all for an empty text
        pytest.param(png((b"zTXt", b"hiper\0\0broken")), "no JSON", id="damaged zTXt"),
        pytest.param(png((b"tEXt", b"hiper\0" + b"9" * 70_000_000)), "Too much memory", id="huge tEXt"),
        pytest.param(png(), "carries no settings", id="no chunk"),
        pytest.param(png((b"hiPr", b"{}")), "carries no settings", id="unknown chunk"),
        pytest.param(png()[:20], "no PNG, or damaged", id="cut in its header"),
        pytest.param(png((b"tEXt", b"hiper\0{}"))[:60], "no PNG, or damaged", id="cut in a chunk"),
        pytest.param(png((b"IHDR", HUGE)), "no PNG, or damaged", id="too many pixels"),
        pytest.param(b"GIF89a", "no PNG, or damaged", id="GIF"),
        pytest.param(b"", "no PNG, or damaged", id="empty"),
    ],
)
def test_hostile_files_are_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert expected in refusal(path)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    assert refusal(tmp_path / "none.png" if kind == "missing" else tmp_path)


# on the command line


@pytest.mark.slow
def test_one_picture_is_enough_to_draw_it_again(
    cli: Cli, tmp_path: Path, model_folder: Path, tail: Path
) -> None:
    arguments = (
        *("--images", "5", "--seed", "4", "--num-inference-steps", "2", "--batch-size", "3"),
        *("--strength", "1.5"),
    )
    done = cli("edit", tail, PROMPT, *arguments, "--out", tmp_path, "--dtype", "bfloat16")
    picture = tmp_path / "a-sitting-dog-6.png"
    assert str(picture) in done.out.splitlines()
    shown = json.loads(cli("show", picture, "--json").out)
    assert (shown["prompt"], shown["batch"], shown["dtype"]) == (PROMPT, [4, 5, 6], "bfloat16")
    assert shown["artifact"]["caption"] == "a standing dog"
    assert ["strength", "1.5"] in [line.split() for line in cli("show", picture).out.splitlines()]
    cli("rerun", picture, "--quiet").refusal(repr(model_folder.name), "--backbone")
    record = json.loads(cli("rerun", picture, "--backbone", model_folder, "--json").out)
    assert (record["identical"], record["notes"]) == (True, [])
    again = tmp_path / "a-sitting-dog-6-rerun.png"
    assert Path(record["path"]) == again
    with Image.open(picture) as one, Image.open(again) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))
        assert one.info == other.info
    cli("rerun", picture, "--backbone", model_folder, "--quiet").refusal("-rerun.png", "--overwrite")


@pytest.mark.slow
def test_a_picture_without_its_artifact_asks_for_it(
    cli: Cli, tmp_path: Path, model_folder: Path, tail: Path
) -> None:
    done = cli(
        "edit", tail, PROMPT, "--num-inference-steps", "1", "--out", tmp_path, "--no-artifact", "--json"
    )
    picture = Path(json.loads(done.out)["images"][0]["path"])
    with Image.open(picture) as image:
        assert set(image.info) == {SETTINGS, PARAMETERS}
    assert json.loads(cli("show", picture, "--json").out)["artifact"] is None
    model = ("--backbone", model_folder, "--quiet", "--out", tmp_path / "again.png")
    cli("rerun", picture, *model).refusal("carries no artifact", "--artifact")
    other = replace(Artifact.load(tail), caption="a cat").save(tmp_path / "other.safetensors")
    cli("rerun", picture, *model, "--artifact", other).refusal("drawn with the artifact")
    assert not (tmp_path / "again.png").exists()
    assert cli("rerun", picture, *model, "--artifact", tail).status == 0


@pytest.mark.slow
def test_another_arithmetic_is_told(cli: Cli, tmp_path: Path, model_folder: Path, tail: Path) -> None:
    cli("edit", tail, PROMPT, "--num-inference-steps", "2", "--out", tmp_path)
    picture = tmp_path / "a-sitting-dog-0.png"
    done = cli("rerun", picture, "--backbone", model_folder, "--dtype", "bfloat16", "--json")
    record = json.loads(done.out)
    assert not record["identical"]
    assert record["changed"] > 0
    assert any("drawn on cpu in float32" in note and "in bfloat16" in note for note in record["notes"])


@pytest.mark.slow
def test_packed_weights_are_packed_again(cli: Cli, tmp_path: Path, model_folder: Path, tail: Path) -> None:
    cli("edit", tail, PROMPT, "--num-inference-steps", "2", "--out", tmp_path, "--quantise", "int8")
    picture = tmp_path / "a-sitting-dog-0.png"
    assert json.loads(cli("show", picture, "--json").out)["quantised"] == "int8"
    assert json.loads(cli("rerun", picture, "--backbone", model_folder, "--json").out)["identical"]


@pytest.mark.slow
def test_no_metadata_leaves_nothing(cli: Cli, tmp_path: Path, tail: Path) -> None:
    cli("edit", tail, PROMPT, "--num-inference-steps", "1", "--out", tmp_path, "--no-metadata")
    picture = tmp_path / "a-sitting-dog-0.png"
    with Image.open(picture) as image:
        assert image.info == {}
    cli("show", picture).refusal("carries no settings")
    cli("rerun", picture).refusal("carries no settings")


def test_a_model_that_only_the_picture_names_is_not_downloaded(
    cli: Cli, tmp_path: Path, chunks: Mapping[str, str]
) -> None:
    """The guard in conftest fails on any connection."""
    hostile = changed(chunks, backbone="somebody/some-model", revision="0123abc")
    cli("rerun", write(tmp_path / "a.png", hostile), "--quiet").refusal("somebody/some-model", "hf download")


def test_values_out_of_range_are_refused_before_drawing(
    cli: Cli, tmp_path: Path, chunks: Mapping[str, str], model_folder: Path
) -> None:
    hostile = changed(chunks, num_inference_steps=10**9)
    cli("rerun", write(tmp_path / "a.png", hostile), "--backbone", model_folder, "--quiet").refusal(
        "steps is"
    )
    assert not (tmp_path / "a-rerun.png").exists()


def test_control_characters_of_a_stranger_are_not_shown(
    cli: Cli, tmp_path: Path, chunks: Mapping[str, str]
) -> None:
    hostile = changed(chunks, prompt="\x1b]0;owned\x07\nhiper: note: forged")
    shown = cli("show", write(tmp_path / "a.png", hostile)).out
    assert all(character.isprintable() for character in shown.replace("\n", ""))
    assert "hiper: note: forged" not in shown.splitlines()


def test_other_text_of_a_picture_is_left_alone(
    tmp_path: Path, drawn: hiper.EditResult, chunks: Mapping[str, str]
) -> None:
    """Another program added its own chunks and kept ours."""
    texts = PngImagePlugin.PngInfo()
    for name, text in {"prompt": "{}", **chunks, "Comment": "seen"}.items():
        texts.add_text(name, text, zip=name == SETTINGS)
    drawn.images[3].save(tmp_path / "a.png", pnginfo=texts)
    assert asdict(read_drawn(tmp_path / "a.png").settings)["seed"] == 6


@pytest.mark.parametrize("after", [False, True])
def test_a_text_of_megabytes_beside_the_settings_is_no_matter(
    cli: Cli, tmp_path: Path, sd1: SdBackbone, chunks: Mapping[str, str], drawn: hiper.EditResult, after: bool
) -> None:
    """What ComfyUI puts into a picture that went through it."""
    texts = PngImagePlugin.PngInfo()
    for name, text in chunks.items():
        texts.add_text(name, text)
    texts.add_text("workflow", "x" * 3_000_000, zip=True)
    if after:  # the order in which another program writes them
        texts.chunks = [(kind, data, not data.startswith(b"hiper")) for kind, data, *_ in texts.chunks]
    path = tmp_path / "a.png"
    drawn.images[3].save(path, pnginfo=texts)
    assert json.loads(cli("show", path, "--json").out)["seed"] == 6
    read = read_drawn(path)
    assert read.artifact is not None
    assert rerun(read, sd1, read.artifact).changed == 0


# what a picture claims


def test_a_batch_that_would_take_any_memory_is_refused_before_it_is_taken(
    sd1: SdBackbone, tmp_path: Path, chunks: Mapping[str, str]
) -> None:
    claimed = changed(chunks, batch=list(range(30_000)), negative_prompt=[""])
    read = read_drawn(write(tmp_path / "a.png", claimed))
    assert read.artifact is not None
    with pytest.raises(ImageError, match="in a batch of 30000"):
        rerun(read, sd1, read.artifact)


def test_a_size_that_would_take_any_memory_is_refused_before_it_is_taken(
    sd1: SdBackbone, tmp_path: Path, chunks: Mapping[str, str]
) -> None:
    head = struct.pack(">IIBBBBB", 8000, 8000, 8, 2, 0, 0, 0)
    own = [
        (b"tEXt", name.encode() + b"\0" + text.encode())
        for name, text in changed(chunks, width=8000, height=8000).items()
    ]
    (tmp_path / "a.png").write_bytes(png((b"IHDR", head), *own))
    read = read_drawn(tmp_path / "a.png")
    assert read.artifact is not None
    with pytest.raises(ImageError, match="8000x8000"):
        rerun(read, sd1, read.artifact)


def test_damaged_pixels_are_told_before_anything_is_drawn(
    sd1: SdBackbone, tmp_path: Path, chunks: Mapping[str, str]
) -> None:
    path = write(tmp_path / "a.png", chunks)
    path.write_bytes(path.read_bytes()[:-40])
    read = read_drawn(path)
    assert read.artifact is not None
    with pytest.raises(ImageError, match="damaged"):
        rerun(read, sd1, read.artifact, callback=lambda done, total: pytest.fail("it was drawn"))
