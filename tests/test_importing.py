"""Tails of the reference script are taken over; code and everything else is refused in one line."""

from __future__ import annotations

import io
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hiper.artifacts import Artifact, check_compatible, import_reference
from hiper.backbones.sd import SdBackbone
from hiper.errors import ArtifactError

CAPTION = "a standing dog"


def tail(backbone: SdBackbone, rows: int = 5) -> torch.Tensor:
    return torch.randn(rows, backbone.embed_dim, generator=torch.Generator().manual_seed(0))


def refusal(path: Path, backbone: SdBackbone) -> str:
    with pytest.raises(ArtifactError) as error:
        import_reference(path, backbone=backbone, caption=CAPTION)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(repr(str(path)))
    return message


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", ["[1, rows, embed]", "[rows, embed]", "parameter", "float16"])
def test_a_tail_of_the_reference_script(tmp_path: Path, sd1: SdBackbone, kind: str, zipped: bool) -> None:
    rows = tail(sd1)
    saved = {
        "[1, rows, embed]": rows[None],
        "[rows, embed]": rows,
        "parameter": torch.nn.Parameter(rows[None]),
        "float16": rows.half(),
    }[kind]
    path = tmp_path / "hiper_embeddings_step1000.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=zipped)
    artifact = import_reference(path, backbone=sd1, caption=CAPTION)
    expected = rows.half().float() if kind == "float16" else rows
    assert torch.equal(artifact.tensors["tail"], expected)
    assert not artifact.tensors["tail"].requires_grad
    assert artifact.edit == {
        "strength": 0.8,
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "scheduler": "ddim",
    }
    check_compatible(artifact, sd1)
    again = Artifact.load(artifact.save(tmp_path / "dog.safetensors"))
    assert (again.caption, again.method, again.describe()["seed"]) == (CAPTION, "hiper", None)
    assert again.extra == {"hiper.imported_from": path.name, "modelspec.prediction_type": "epsilon"}


class Code:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_does_not_run(tmp_path: Path, sd1: SdBackbone, zipped: bool) -> None:
    proof = tmp_path / "ran"
    torch.save(
        {"tail": tail(sd1), "x": Code(proof)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped
    )
    assert "refused: it asks to run posix.mkdir" in refusal(tmp_path / "x.pt", sd1)
    assert not proof.exists()


def test_other_peoples_pickles_are_recognised(tmp_path: Path, sd1: SdBackbone) -> None:
    rows = torch.zeros(2, sd1.embed_dim)
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "x", "step": 9}
    lora = {"unet.mid_block.attn.to_q.lora_A.weight": rows}
    for value, says in (
        (a1111, "a textual inversion"),
        ({"<cat-toy>": rows[0]}, "a textual inversion"),
        (lora, "a LoRA"),
        ({"state_dict": {}, "epoch": 1}, "without a hiper header"),
        ([rows], "holds a list"),
        (rows.to_sparse(), "torch.sparse_coo"),
        (rows.to("meta"), "on meta"),
    ):
        torch.save(value, tmp_path / "x.pt")
        assert says in refusal(tmp_path / "x.pt", sd1)


def test_tensors_that_are_no_tail_of_this_model(tmp_path: Path, sd1: SdBackbone) -> None:
    embed = sd1.embed_dim
    for tensor, says in (
        (torch.zeros(1, 5, embed + 1), "name the model that it was fitted on"),
        (torch.zeros(5), "shape [5]"),
        (torch.zeros(2, 5, embed), f"shape [2, 5, {embed}]"),
        (torch.zeros(1, 0, embed), f"shape [1, 0, {embed}]"),
        (torch.zeros(1, 77, embed), f"shape [1, 77, {embed}]"),
        (torch.zeros(1).expand(10**9, embed), f"shape [{10**9}, {embed}]"),  # a few bytes that claim 100 GB
        (torch.zeros(5, embed, dtype=torch.int64), "is torch.int64"),
        (torch.full((5, embed), math.nan), "NaN"),
    ):
        torch.save(tensor, tmp_path / "x.pt")
        assert says in refusal(tmp_path / "x.pt", sd1)


@pytest.mark.slow
def test_limits_hold_also_for_what_is_packed(tmp_path: Path, sd1: SdBackbone) -> None:
    large = tmp_path / "large.pt"
    large.touch()
    os.truncate(large, 64_000_001)
    assert "at most 64000000" in refusal(large, sd1)
    buffer = io.BytesIO()
    torch.save(torch.zeros(20_000_000), buffer)
    with (
        zipfile.ZipFile(buffer) as plain,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pt").stat().st_size < 1_000_000
    assert "unpacks to" in refusal(tmp_path / "bomb.pt", sd1)


@pytest.mark.slow
def test_damage_is_always_one_line(tmp_path: Path, sd1: SdBackbone) -> None:
    """Every kind of truncation and hundreds of overturned bytes: a tail, or a refusal, nothing else."""
    path = tmp_path / "x.pt"
    random = np.random.default_rng(0)
    for zipped in (True, False):
        torch.save(tail(sd1)[None], path, _use_new_zipfile_serialization=zipped)
        data = path.read_bytes()
        for size in range(0, len(data), max(1, len(data) // 20)):
            path.write_bytes(data[:size])
            refusal(path, sd1)
        for position in random.integers(len(data), size=60):
            path.write_bytes(data[:position] + bytes([data[position] ^ 0x15]) + data[position + 1 :])
            try:
                import_reference(path, backbone=sd1, caption=CAPTION)
            except ArtifactError as error:
                assert "\n" not in str(error)  # noqa: PT017
    path.write_bytes(random.bytes(5000))
    assert "no PyTorch file" in refusal(path, sd1)
