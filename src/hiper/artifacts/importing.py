"""Import tails of the paper's reference script: bare tensors in PyTorch pickles."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hiper.artifacts.artifact import Artifact
from hiper.artifacts.header import UNKNOWN_SEED
from hiper.backbones import prediction_entry
from hiper.errors import ArtifactError
from hiper.files import MAX_BYTES, foreign_kind, read_capped
from hiper.images import clean_text

if TYPE_CHECKING:
    from hiper.backbones import Backbone

MAX_LENGTH = 64


def import_reference(path: str | Path, *, backbone: Backbone, caption: str) -> Artifact:
    """Read a tail of the HiPer reference script.

    Code in the file is refused, and nothing above 64 MB is read. Editing defaults are the paper's: strength 0.8,
    guidance 7.5, DDIM, 50 steps.

    Args:
        path: A .pt file with one tensor, [1, tokens, embed_dim] or [tokens, embed_dim], of at most 64 tokens.
        backbone: The model that it was fitted on, which the file does not name.
        caption: Of the picture, which the file does not hold.

    Raises:
        ArtifactError: The file holds no such tensor, or one for another model.
        CaptionError: The caption is longer than 10 000 characters.
    """
    caption = clean_text(caption, what="caption")
    try:
        tail = _tail(_unpickled(read_capped(Path(path))), backbone)
        return _artifact(tail, backbone, caption, Path(path).name)
    except ArtifactError as error:
        raise ArtifactError(f"{str(path)!r}: {error}") from error


def _unpickled(data: bytes) -> object:
    """Read a pickle of tensors and plain containers; whatever else it asks for is refused by torch."""
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            unpacked = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist())
            if unpacked > MAX_BYTES:
                raise ArtifactError(f"it unpacks to {unpacked} bytes; at most {MAX_BYTES} are read")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ArtifactError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise ArtifactError(
                f"refused: it asks to run {code[1]}; allowed is a file that holds a tensor and nothing else"
            ) from error
        raise ArtifactError("no PyTorch file (.pt), or a damaged one; copy it again") from error


def _tail(value: object, backbone: Backbone) -> Tensor:
    if isinstance(value, Mapping):
        raise ArtifactError(f"not a tail but {foreign_kind([str(name) for name in value])}")
    if not isinstance(value, Tensor):
        raise ArtifactError(
            f"it holds a {type(value).__name__}; allowed is one tensor [sequence_length, embed_dim]"
        )
    if value.layout != torch.strided or value.device.type != "cpu":
        raise ArtifactError(
            f"its tensor is {value.layout} on {value.device}; allowed is a dense one with values"
        )
    match list(value.shape):
        case [length, embed] | [1, length, embed] if 1 <= length <= MAX_LENGTH:
            tail = value.reshape(length, embed)
        case shape:
            raise ArtifactError(f"its tensor has shape {shape}; allowed is [1 to {MAX_LENGTH}, embed_dim]")
    if embed != backbone.embed_dim:
        raise ArtifactError(
            f"its token embeddings have {embed} numbers and those of {backbone.id} {backbone.embed_dim};"
            " name the model that it was fitted on"
        )
    return tail


def _artifact(tail: Tensor, backbone: Backbone, caption: str, source: str) -> Artifact:
    return Artifact(
        method="hiper",
        family=backbone.family,
        backbone=backbone.id,
        revision=backbone.revision,
        fingerprint=backbone.fingerprint(),
        caption=caption,
        image_sha256="",
        seed=UNKNOWN_SEED,
        options={"tail": len(tail), "placement": "replace"},
        edit={"strength": 0.8, "guidance_scale": 7.5, "num_inference_steps": 50, "scheduler": "ddim"},
        tensors={"tail": tail},
        figures={},
        versions={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        thumbnail="",
        extra={"hiper.imported_from": source, **prediction_entry(backbone.objective)},
    )
