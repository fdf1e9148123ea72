"""Artifacts in folders and on a Hub of our own: found again, described, and taken by nobody for something else."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import ModelCard
from PIL import Image

import hiper
from hiper.artifacts import Artifact, content_sha256
from hiper.artifacts.artifact import GUARD
from hiper.backbones import hub as the_hub
from hiper.backbones.sd import SdBackbone
from hiper.errors import ArtifactError, OptionError, OutputError
from tests import local_hub, tiny

PROMPT = "a sitting dog"


@pytest.fixture(scope="module")
def drawn(sd1: SdBackbone, artifact: Artifact) -> hiper.EditResult:
    return hiper.edit(sd1, artifact, PROMPT, seeds=[4, 9], num_inference_steps=2)


@pytest.fixture
def hub(tmp_path: Path, at_hub: Callable[[str], None]) -> Iterator[Path]:
    """The folder of the repository owner/dog, which is served at the address that huggingface_hub asks."""
    folder = tmp_path / "repository"
    folder.mkdir()
    with local_hub.serve(folder, "owner/dog") as address:
        at_hub(address)
        yield folder


def same(one: Artifact, other: Artifact) -> bool:
    return content_sha256(one) == content_sha256(other)


def refused(place: Path | str, **more: str | bool) -> str:
    with pytest.raises(ArtifactError) as caught:
        Artifact.from_pretrained(place, **more)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# folders


def test_a_folder_is_found_again(tmp_path: Path, artifact: Artifact, drawn: hiper.EditResult) -> None:
    folder = artifact.save_pretrained(tmp_path / "a" / "dog", results=[drawn])
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        "README.md",
        "hiper.safetensors",
        "pictures/1-a-sitting-dog-4.png",
        "pictures/1-a-sitting-dog-9.png",
    ]
    assert same(Artifact.from_pretrained(folder), artifact)
    assert same(Artifact.from_pretrained(folder / "hiper.safetensors"), artifact)
    assert same(Artifact.from_pretrained(folder.parent, subfolder="dog"), artifact)
    for seed, image in zip(drawn.seeds, drawn.images, strict=True):
        with Image.open(folder / "pictures" / f"1-a-sitting-dog-{seed}.png") as picture:
            assert (picture.tobytes(), picture.info) == (image.tobytes(), {})


def test_a_folder_is_not_overwritten_unasked(tmp_path: Path, artifact: Artifact) -> None:
    mine = tmp_path / "README.md"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="README"):
        artifact.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    artifact.save_pretrained(tmp_path, overwrite=True)
    assert mine.read_text() != "mine"


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    assert "hiper.safetensors" in refused(tmp_path)
    assert "other.safetensors" in refused(tmp_path, weight_name="other.safetensors")


# the card


def test_the_card_says_what_a_stranger_needs(
    artifact: Artifact, drawn: hiper.EditResult, tmp_path: Path
) -> None:
    shared = replace(artifact, backbone="owner/base", revision="0123abc")
    card = ModelCard.load(shared.save_pretrained(tmp_path, results=[drawn]) / "README.md")
    data = card.data.to_dict()
    assert (data["base_model"], data["library_name"], data["license"]) == ("owner/base", "hiper", "other")
    assert data["license_link"].endswith("/owner/base")
    assert {each["text"] for each in data["widget"]} == {PROMPT}
    for each in data["widget"]:
        assert (tmp_path / each["output"]["url"]).is_file()
        assert f"![]({each['output']['url']})" in card.text
    for words in ("a standing dog", "| 9 | 0.8 | 7.5 | 2, ddim |", "not a textual inversion", "consent"):
        assert words in card.text


def test_only_models_of_the_hub_are_named_as_base(artifact: Artifact, tmp_path: Path) -> None:
    local = replace(artifact, backbone="/home/alice/models/sd15", thumbnail="data:image/jpeg;base64,/9j/")
    folder = local.save_pretrained(tmp_path / "local")
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert "base_model" not in data
    assert data["license"] == "other"
    everything = b"".join(path.read_bytes() for path in folder.rglob("*.*"))
    assert b"alice" not in everything
    assert b"image/jpeg" not in everything
    own = replace(artifact, backbone="critters").save_pretrained(tmp_path / "own")
    assert ModelCard.load(own / "README.md").data.license == "apache-2.0"


def test_a_licence_of_ones_own(artifact: Artifact, tmp_path: Path) -> None:
    folder = artifact.save_pretrained(tmp_path, license="cc-by-4.0")
    assert ModelCard.load(folder / "README.md").data.license == "cc-by-4.0"
    with pytest.raises(OptionError, match="identifier of the Hub"):
        artifact.save_pretrained(tmp_path / "x", license="mine: all\nmine")
    assert not (tmp_path / "x").exists()


def test_the_text_of_a_stranger_stays_text(
    artifact: Artifact, drawn: hiper.EditResult, tmp_path: Path
) -> None:
    """Neither YAML, nor Markdown, nor HTML, nor a table cell, nor the end of a quoted command."""
    evil = 'a dog" | rm -rf ~ <script>alert(1)</script> [x](http://e.vil) `id` $(id)\n---\nlicense: mit {{ 7777*1111 }}'
    hostile = replace(artifact, caption=evil, backbone=evil, method=evil)
    folder = hostile.save_pretrained(tmp_path, results=[replace(drawn, prompt=evil)])
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "other"
    prose = re.sub(r"```.*?```|`[^`]*`", "", card.text, flags=re.DOTALL)
    assert card.text.count("```") == 4
    assert "<script>" not in prose
    assert "](http://e.vil)" not in prose
    assert "\n---" not in card.text
    assert str(7777 * 1111) not in card.text
    command = next(line for line in card.text.splitlines() if line.startswith("hiper edit"))
    assert command.count('"') == 2
    assert not set("`$") & set(command)


# the Hub


def test_what_is_pushed_is_what_is_saved_and_can_be_fetched(
    tmp_path: Path, hub: Path, empty_cache: Path, artifact: Artifact, drawn: hiper.EditResult
) -> None:
    address = artifact.push_to_hub("owner/dog", results=[drawn], token="hf_test")
    assert address.endswith(f"/owner/dog/commit/{local_hub.COMMIT}")
    saved = artifact.save_pretrained(tmp_path / "saved", results=[drawn])
    names = sorted(str(path.relative_to(saved)) for path in saved.rglob("*.*"))
    assert sorted(str(path.relative_to(hub)) for path in hub.rglob("*.*")) == names
    for name in names:
        assert (hub / name).read_bytes() == (saved / name).read_bytes()
    assert same(Artifact.from_pretrained("owner/dog"), artifact)
    assert list(empty_cache.rglob("hiper.safetensors"))
    (hub / "hiper.safetensors").unlink()
    assert same(Artifact.from_pretrained("owner/dog", local_files_only=True), artifact)


def test_refusals_of_the_hub_are_one_line(
    hub: Path, empty_cache: Path, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "has no hiper.safetensors" in refused("owner/dog")
    assert "hf download" in refused("owner/other", local_files_only=True)
    assert "sub/x.safetensors" in refused("owner/dog", weight_name="x.safetensors", subfolder="sub")
    assert refused("no such/thing/at all")
    with pytest.raises(OutputError) as caught:
        artifact.push_to_hub("owner/dog", token=False)
    assert "\n" not in str(caught.value)
    assert "401" in str(caught.value) or "log in" in str(caught.value)
    assert not list(hub.iterdir())


# other people's loaders


def test_diffusers_does_not_take_a_tail_for_a_textual_inversion(tmp_path: Path, artifact: Artifact) -> None:
    folder = artifact.save_pretrained(tmp_path)
    pipe = tiny.pipeline()
    before = pipe.text_encoder.get_input_embeddings().weight.shape
    with pytest.raises(OSError, match="learned_embeds"):
        pipe.load_textual_inversion(folder)
    for token in (None, "<dog>"):
        with pytest.raises(ValueError, match="state dictionary is incorrect"):
            pipe.load_textual_inversion(folder, weight_name="hiper.safetensors", token=token)
    assert pipe.text_encoder.get_input_embeddings().weight.shape == before
    # the same rows without the guard would have been taken
    rows = {"hiper.tail": artifact.tensors["tail"]}
    safetensors.torch.save_file(rows, tmp_path / "bare.safetensors")
    pipe.load_textual_inversion(folder, weight_name="bare.safetensors", token="<dog>")
    assert pipe.text_encoder.get_input_embeddings().weight.shape[0] == before[0] + 5


@pytest.mark.parametrize("names", [("tail",), ("a", "clip_l", "tail", "~")])
def test_the_first_tensor_is_one_that_no_text_encoder_takes(
    tmp_path: Path, artifact: Artifact, names: tuple[str, ...]
) -> None:
    """ComfyUI takes the first tensor of an unknown file, and drops rows whose width is not the encoder's."""
    rows = artifact.tensors["tail"]
    path = replace(artifact, tensors={name: rows.clone() for name in names}).save(
        tmp_path / "dog.safetensors"
    )
    first = next(iter(safetensors.torch.load_file(path).values()))
    assert first.shape == (1,)
    assert set(Artifact.load(path).tensors) == set(names)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert next(iter({name: None for name in header if name != "__metadata__"})) == GUARD
    assert header[GUARD]["data_offsets"][0] == 0


def test_files_without_the_guard_are_read_as_before(tmp_path: Path, artifact: Artifact) -> None:
    path = artifact.save(tmp_path / "dog.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    old = tmp_path / "old.safetensors"
    safetensors.torch.save_file({"hiper.tail": artifact.tensors["tail"]}, old, metadata=metadata)
    assert torch.equal(Artifact.load(old).tensors["tail"], artifact.tensors["tail"])


def test_nothing_is_sent_to_a_hub_that_does_not_answer(
    at_hub: Callable[[str], None], artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(the_hub, "ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at_hub(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(OutputError, match=r"owner/dog .* was not reached"):
            artifact.push_to_hub("owner/dog", token="hf_test")
