"""An artifact keeps what it was given; a file that is none is refused in one line that says what it is."""

from __future__ import annotations

import itertools
import json
import math
import os
import pickle
import struct
import tracemalloc
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from hiper.artifacts import Artifact, check_compatible, combine
from hiper.artifacts.artifact import GUARD, fingerprint_distance
from hiper.artifacts.model_card import model_card
from hiper.backbones.sd import SdBackbone
from hiper.errors import ArtifactError, HiperWarning, OutputError
from hiper.files import TensorFile
from tests import tiny

THUMBNAIL = "data:image/jpeg;base64,/9j/"


def make(**changes: Any) -> Artifact:
    """An artifact of the size that SD 1 gives."""
    values: dict[str, Any] = {
        "method": "hiper",
        "family": "sd1",
        "backbone": "models/sd15",
        "revision": "39593d5",
        "fingerprint": tuple(float(f"{math.sin(i):.6g}") for i in range(256)),
        "caption": "a “standing” dog, 犬 🐕‍🦺",
        "image_sha256": "ab" * 32,
        "seed": 2**63 - 1,
        "options": {"num_train_steps": 100, "learning_rate": 0.02, "mask": True, "placement": "replace"},
        "edit": {"strength": 0.8, "guidance_scale": 7.5, "num_inference_steps": 50, "scheduler": "ddim"},
        "tensors": {"tail": torch.randn(5, 768, generator=torch.Generator().manual_seed(0))},
        "figures": {"seconds": 12.25, "loss_before": 0.1 + 0.2, "loss_after": math.inf},
        "versions": {"torch": "2.13.0"},
        "created": "2026-11-22T17:02:23+00:00",
        "thumbnail": THUMBNAIL,
        "extra": {"modelspec.author": "somebody"},
    }
    return Artifact(**{**values, **changes})


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(ArtifactError) as error:
        Artifact.load(path)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(repr(str(path)))
    assert len(message) < 300 + len(str(path))
    return message


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rewritten(
    path: Path, header: Mapping[str, str | None] = {}, tensors: Mapping[str, Tensor] | None = None
) -> Path:
    """A sound file with some header entries changed or (None) missing, written by safetensors itself."""
    artifact = make()
    artifact.save(path)
    with safe_open(path, framework="pt") as file:
        entries = {**file.metadata(), **header}
    named = {f"hiper.{name}": tensor for name, tensor in artifact.tensors.items()}
    kept = {name: text for name, text in entries.items() if text is not None}
    safetensors.torch.save_file(dict(tensors or named), path, metadata=kept)
    return path


def test_a_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    artifact = make()
    path = artifact.save(tmp_path / "dog.safetensors")
    again = Artifact.load(path)
    for field in fields(Artifact):
        if field.name != "tensors":
            assert getattr(again, field.name) == getattr(artifact, field.name), field.name
    assert torch.equal(again.tensors["tail"], artifact.tensors["tail"])
    assert again.to_bytes() == artifact.to_bytes() == path.read_bytes()
    assert len(path.read_bytes()) < 15_360 + 5_000 + len(THUMBNAIL)
    with pytest.raises(OutputError, match="exists"):
        artifact.save(path)


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    path = make().save(tmp_path / "dog.safetensors")
    assert list(safetensors.torch.load_file(path)) == [GUARD, "hiper.tail"]
    with safe_open(path, framework="np") as file:
        header = file.metadata()
    assert header["modelspec.architecture"] == "stable-diffusion-v1/hiper"
    assert header["modelspec.title"] == header["hiper.caption"] == make().caption
    assert header["modelspec.thumbnail"] == THUMBNAIL
    assert json.loads(header["hiper.edit"])["strength"] == 0.8


def test_the_description_is_json(tmp_path: Path) -> None:
    described = make(seed=-1).describe()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["tensors"] == {"tail": [5, 768]}
    assert described["seed"] is None
    assert described["figures"] == {"seconds": 12.25, "loss_before": 0.1 + 0.2, "loss_after": None}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_float_tensors_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    tail = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    path = rewritten(tmp_path / "dog.safetensors", tensors={"hiper.tail": tail})
    loaded = Artifact.load(path).tensors["tail"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, tail.float())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"hiper.tail": torch.ones(5, 8, dtype=torch.int64)}, "is I64"),
        ({"hiper.tail": torch.ones(5, 8, dtype=torch.bool)}, "is BOOL"),
        ({"hiper.tail": torch.ones(5, 8).to(torch.float8_e4m3fn)}, "is F8_E4M3"),
        ({"hiper.tail": torch.ones(5)}, r"shape \[5\]"),
        ({"hiper.tail": torch.ones(1, 5, 8)}, r"shape \[1, 5, 8\]"),
        ({"hiper.tail": torch.ones(0, 8)}, r"shape \[0, 8\]"),
        ({"hiper.tail": torch.ones(5, 0)}, r"shape \[5, 0\]"),
        ({"hiper.tail": torch.tensor([[1.0, math.nan]])}, "NaN or infinity"),
        ({"hiper.tail": torch.tensor([[1.0, -math.inf]])}, "NaN or infinity"),
        ({"hiper.tail": torch.tensor([[1e300]], dtype=torch.float64)}, "NaN or infinity"),
        ({"hiper.a": torch.ones(1, 8), "hiper.b": torch.ones(1, 9)}, "8 and 9"),
        ({"tail": torch.ones(5, 8)}, "none of hiper's"),
        ({f"hiper.{i}": torch.ones(1, 1) for i in range(65)}, "65 tensors; at most 64"),
    ],
)
def test_tensors_that_are_no_tail(tmp_path: Path, tensors: dict[str, Tensor], says: str) -> None:
    path = rewritten(tmp_path / "dog.safetensors", tensors=tensors)
    with pytest.raises(ArtifactError, match=says):
        Artifact.load(path)
    refusal(path)


def test_a_fit_cannot_hand_on_nan_either() -> None:
    with pytest.raises(ArtifactError, match="NaN"):
        make(tensors={"tail": torch.full((5, 768), math.nan)})
    with pytest.raises(ArtifactError, match="0 tensors"):
        make(tensors={})


def test_every_truncation_is_told(tmp_path: Path) -> None:
    data = make().to_bytes()
    for size in (0, 1, 7, 8, 9, 100, 4000, len(data) - 15360, len(data) - 1):
        message = refusal(write(tmp_path / "cut.safetensors", data[:size]))
        assert ("empty" if size == 0 else f"ends at byte {size}" if size > 8 else "first byte") in message
    assert f"ends at byte {len(data) + 3}" in refusal(write(tmp_path / "long.safetensors", data + b"abc"))


@pytest.mark.slow
def test_damage_in_the_middle_never_passes_for_another_error(tmp_path: Path) -> None:
    """Any byte of the header overturned: loaded (a letter of a text), or refused in one line."""
    data = make().to_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    path = tmp_path / "dog.safetensors"
    refused = 0
    for position in range(0, 8 + length, 23):
        for flip in (0x01, 0x80):
            write(path, data[:position] + bytes([data[position] ^ flip]) + data[position + 1 :])
            try:
                Artifact.load(path)
            except ArtifactError:
                refused += 1
    assert refused > length / 23  # all that turned into no UTF-8, at least


HOSTILE_HEADERS = {
    "nest": b'{"a":' + b"[" * 900_000,
    "digits": b'{"a":' + b"9" * 900_000 + b"}",
    "big offset": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,' + b"9" * 4000 + b"]}}",
    "list for a tensor": b'{"a":[1,2]}',
    "no dtype": b'{"a":{"shape":[0],"data_offsets":[0,0]}}',
    "numbers as metadata": b'{"__metadata__":{"hiper.schema":1}}',
    "list as metadata": b'{"__metadata__":["hiper.schema"]}',
    "no tensor": b'{"__metadata__":{"hiper.schema":"1"}}',
    "empty": b"{}",
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers(tmp_path: Path, name: str) -> None:
    header = HOSTILE_HEADERS[name]
    refusal(write(tmp_path / "x.safetensors", struct.pack("<Q", len(header)) + header))


def test_overlapping_tensors_are_damage(tmp_path: Path) -> None:
    """The end fits, the layout does not: found by safetensors itself."""
    path = rewritten(tmp_path / "x.safetensors")
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["hiper.second"] = {"dtype": "F32", "shape": [1, 768], "data_offsets": [0, 3072]}
    text = json.dumps(header).encode()
    assert "damaged" in refusal(write(path, struct.pack("<Q", len(text)) + text + data[8 + length :]))


@pytest.mark.slow
def test_limits_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    """10^5 tensors, a header that claims exabytes, and a file of 10 GB (of holes): no memory, one line."""
    many = tmp_path / "many.safetensors"
    empty = torch.zeros(0)
    safetensors.torch.save_file(
        {f"hiper.{i}": empty for i in range(100_000)}, many, metadata={"hiper.schema": "1"}
    )
    exabytes = write(tmp_path / "claim.safetensors", struct.pack("<Q", 2**62) + b"{" + bytes(100))
    holes = tmp_path / "holes.safetensors"
    header = json.dumps(
        {
            "__metadata__": json.loads(json.dumps(_metadata(make().save(tmp_path / "a.safetensors")))),
            "hiper.tail": {"dtype": "F32", "shape": [2_500_000, 1000], "data_offsets": [0, 10**10]},
        }
    ).encode()
    write(holes, struct.pack("<Q", len(header)) + header)
    os.truncate(holes, 8 + len(header) + 10**10)
    tracemalloc.start()
    assert "at most 1000000" in refusal(many)
    assert "at most 1000000" in refusal(exabytes)
    assert "at most 64000000" in refusal(holes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000
    holes.unlink()


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata()
    return metadata


class Code:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_not_opened(tmp_path: Path, zipped: bool) -> None:
    proof = tmp_path / "ran"
    torch.save({"tail": Code(proof)}, tmp_path / "x.safetensors", _use_new_zipfile_serialization=zipped)
    assert "hiper import" in refusal(tmp_path / "x.safetensors")
    (tmp_path / "plain").write_bytes(pickle.dumps(Code(proof), protocol=2))
    assert "hiper import" in refusal(tmp_path / "plain")
    assert not proof.exists()


FOREIGN: dict[str, tuple[dict[str, Tensor], dict[str, str], str]] = {
    "LoRA of diffusers": (
        {
            f"unet.down_blocks.{i}.attn1.to_q.lora_{x}.weight": torch.zeros(4, 4)
            for i in range(70)
            for x in "AB"
        },
        {"format": "pt"},
        "a LoRA",
    ),
    "LoRA of kohya": ({"lora_unet_mid_block.lora_up.weight": torch.zeros(4, 4)}, {}, "a LoRA"),
    "textual inversion of diffusers": (
        {"<cat-toy>": torch.zeros(768)},
        {"format": "pt"},
        "a textual inversion",
    ),
    "textual inversion of kohya": (
        {"emb_params": torch.zeros(2, 768)},
        {"modelspec.title": "x"},
        "a textual inversion",
    ),
    "textual inversion of SDXL": (
        {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)},
        {},
        "a textual inversion",
    ),
    "model": ({"model.diffusion_model.out.2.weight": torch.zeros(4)}, {}, "the weights of a model"),
    "denoiser": (
        {"down_blocks.0.a": torch.zeros(4), "conv_in.weight": torch.zeros(1)},
        {},
        "weights of a model",
    ),
    "two tensors": ({"a": torch.zeros(4), "b": torch.zeros(4)}, {}, "without a hiper header"),
    "checkpoint": ({"parameter.tail": torch.zeros(4)}, {"hiper.checkpoint": "1"}, "an unfinished fit"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_peoples_files_are_recognised(tmp_path: Path, name: str) -> None:
    tensors, metadata, says = FOREIGN[name]
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata=metadata)
    assert says in refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"<!doctype html><title>Not found</title>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "but a PNG"),
        (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        (os.urandom(3) + bytes(5) + b"no brace" * 20, "not a safetensors file"),
        (b"short", "not a safetensors file"),
    ],
)
def test_other_formats_are_named(tmp_path: Path, data: bytes, says: str) -> None:
    assert says in refusal(write(tmp_path / "x.safetensors", data))


def test_paths_without_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "No such file" in refusal(tmp_path / "missing")
    assert "a folder" in refusal(tmp_path)
    assert "no ordinary file" in refusal(tmp_path / "fifo")
    assert "null byte" in refusal(tmp_path / "nul\0")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"hiper.schema": "2"}, "schema 2 is newer"),
        ({"hiper.schema": "0"}, "damaged"),
        ({"hiper.schema": "9" * 5000}, "damaged"),
        ({"hiper.schema": "²"}, "damaged"),
        ({"hiper.caption": None}, "lacks hiper.caption"),
        ({"hiper.options": None}, "lacks hiper.options"),
        ({"hiper.caption": "a dog\x1b]0;owned\x07"}, "hiper.caption cannot be read"),
        ({"hiper.options": "{"}, "hiper.options cannot be read"),
        ({"hiper.options": "[1]"}, "hiper.options cannot be read"),
        ({"hiper.options": '{"a": [1]}'}, "hiper.options cannot be read"),
        ({"hiper.options": '{"a": 1' + "0" * 400 + "}"}, "hiper.options cannot be read"),
        ({"hiper.options": '{"a": NaN}'}, "hiper.options cannot be read"),
        ({"hiper.edit": '{"strength": 1e999}'}, "hiper.edit cannot be read"),
        ({"hiper.parts": '[{"rows": -Infinity}]'}, "hiper.parts cannot be read"),
        ({"hiper.edit": "[" * 100_000}, "hiper.edit cannot be read"),
        ({"hiper.figures": '{"seconds": "1"}'}, "hiper.figures cannot be read"),
        ({"hiper.seed": "true"}, "hiper.seed cannot be read"),
        ({"hiper.seed": "1.5"}, "hiper.seed cannot be read"),
        ({"hiper.fingerprint": '{"0": 1}'}, "hiper.fingerprint cannot be read"),
        ({"hiper.fingerprint": '["1"]'}, "hiper.fingerprint cannot be read"),
        ({"hiper.parts": "no JSON"}, "hiper.parts cannot be read"),
        ({"hiper.parts": '{"caption": "a"}'}, "hiper.parts cannot be read"),
        ({"hiper.parts": "[1]"}, "hiper.parts cannot be read"),
        ({"hiper.parts": '[{"rows": [1]}]'}, "hiper.parts cannot be read"),
        ({"hiper.parts": '[{"parts": [{"parts": 3}]}]'}, "hiper.parts cannot be read"),
    ],
)
def test_broken_entries(tmp_path: Path, header: dict[str, str | None], says: str) -> None:
    assert says in refusal(rewritten(tmp_path / "x.safetensors", header))


def test_a_newer_schema_is_told_before_its_tensors_are_judged(tmp_path: Path) -> None:
    path = rewritten(
        tmp_path / "x.safetensors", {"hiper.schema": "2"}, {"hiper.codes": torch.ones(5, dtype=torch.int8)}
    )
    assert "upgrade hiper" in refusal(path)


def test_unknown_entries_survive_loading_and_saving(tmp_path: Path) -> None:
    unknown = {"hiper.license": "CC0", "modelspec.author": "me", "ss_tag": "line\nline", "🐕": ""}
    loaded = Artifact.load(rewritten(tmp_path / "x.safetensors", unknown))
    assert loaded.extra == unknown
    assert Artifact.load(loaded.save(tmp_path / "y.safetensors")).extra == unknown


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """A model's path may hold anything; a header above the limit is refused while there is time."""
    odd = make(backbone="models/a\nb\udcff")
    assert Artifact.load(odd.save(tmp_path / "x.safetensors")).backbone == "models/a\ufffdb\ufffd"
    with pytest.raises(ArtifactError, match="at most 1000000"):
        make(extra={"x": "y" * 1_000_000}).save(tmp_path / "z.safetensors")
    assert not (tmp_path / "z.safetensors").exists()


def fitted_on(backbone: SdBackbone) -> Artifact:
    return make(
        family=backbone.family,
        fingerprint=backbone.fingerprint(),
        tensors={"tail": torch.ones(5, backbone.embed_dim)},
    )


def test_the_model_it_was_fitted_on_is_silent(sd1: SdBackbone) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_compatible(fitted_on(sd1), sd1)


def test_another_family_or_width_is_refused(sd1: SdBackbone) -> None:
    for change in ({"family": "sdxl"}, {"tensors": {"tail": torch.ones(5, sd1.embed_dim + 1)}}):
        with pytest.raises(ArtifactError, match="fit again on this one") as error:
            check_compatible(replace(fitted_on(sd1), **change), sd1)
        assert "\n" not in str(error.value)


def test_another_checkpoint_of_the_family_warns(sd1: SdBackbone) -> None:
    other = SdBackbone.from_pipeline(tiny.pipeline("sd1", seed=1))
    nobody = replace(fitted_on(sd1), fingerprint=())
    nan = replace(fitted_on(sd1), fingerprint=(math.nan,) * 256)
    for artifact in (fitted_on(other), nobody, nan):
        with pytest.warns(HiperWarning, match="weights differ"):
            check_compatible(artifact, sd1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_weights_in_another_dtype_are_the_same(sd1: SdBackbone, dtype: torch.dtype) -> None:
    ours = torch.tensor(sd1.fingerprint())
    theirs = tuple(ours.to(dtype).float().tolist())
    distance = fingerprint_distance(theirs, sd1.fingerprint())
    expected = float((torch.tensor(theirs) - ours).norm() / ours.norm())
    assert distance == pytest.approx(expected, rel=1e-4)
    assert 0 < distance < 0.004
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_compatible(replace(fitted_on(sd1), fingerprint=theirs), sd1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the artifacts were fitted on different checkpoints")
def test_no_entry_of_another_type_ends_in_a_traceback(tmp_path: Path) -> None:
    """Every entry, with every kind of JSON and with none: refused in a line, or as good as any."""
    path = tmp_path / "x.safetensors"
    names = TensorFile.open(make().save(tmp_path / "good.safetensors")).metadata
    kinds = ("null", "-1", "NaN", '"x"', "[{}]", '{"a": null}', '{"a": {}}', "{", None)
    outcomes = set()
    for name, kind in itertools.product([*names, "hiper.parts"], kinds):
        path.unlink(missing_ok=True)
        try:
            artifact = Artifact.load(rewritten(path, {name: kind}))
            json.dumps(artifact.describe())
            model_card(artifact, [], license=None, embed=artifact.embed_dim)
            combine([artifact, artifact], strength=1)
        except ArtifactError as error:
            assert "\n" not in str(error)  # noqa: PT017 (both outcomes are right)
            outcomes.add("refused")
        else:
            outcomes.add("read")
    assert outcomes == {"refused", "read"}


def test_a_file_without_a_tail_is_refused(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "x.safetensors", {}, {"hiper.tale": torch.ones(5, 768)})
    assert "no tensor 'tail'" in refusal(path)
    with pytest.raises(ArtifactError, match="1024 token embeddings"):
        make(tensors={"tail": torch.ones(2000, 4)})


@pytest.mark.parametrize("method", ["hiper", "my-method"])
def test_a_header_chooses_no_limit(tmp_path: Path, method: str) -> None:
    """A sparse file of 3 GB, whole by its header, by a method that is not installed, is not read."""
    shape, size = [750, 1_000_000], 3_000_000_000
    entries = {
        "__metadata__": {
            **TensorFile.open(make().save(tmp_path / "good.safetensors")).metadata,
            "hiper.method": method,
        },
        "hiper.tail": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]},
    }
    text = json.dumps(entries).encode()
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    assert "3000" in refusal(path)


def test_a_shape_that_claims_petabytes_is_damage(tmp_path: Path) -> None:
    for shape in ([2**40, 2**40], [10**30], [-1, 5]):
        entries = {
            "__metadata__": dict(
                TensorFile.open(make().save(tmp_path / "good.safetensors", overwrite=True)).metadata
            ),
            "hiper.tail": {"dtype": "F32", "shape": shape, "data_offsets": [0, 20]},
        }
        text = json.dumps(entries).encode()
        path = write(tmp_path / "x.safetensors", len(text).to_bytes(8, "little") + text + bytes(20))
        assert "damaged" in refusal(path)
