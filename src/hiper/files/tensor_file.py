"""Read a safetensors file from a stranger: limits first, then damage, then values.

safetensors itself checks the layout, but allows headers of 100 MB, any number of tensors, and NaN.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hiper.errors import ArtifactError
from hiper.files.header import START, read_header
from hiper.files.kinds import HEAD_BYTES, looks_like

MAX_BYTES = 64_000_000

_FLOATS = ("F64", "F32", "F16", "BF16")
_MEND = "copy it again, or make it anew"

_TEXTUAL_INVERSION = (
    "a textual inversion, words for the text encoder's input where a tail is of its output;"
    " load it by pipe.load_textual_inversion"
)
_FOREIGN: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lora_", ".lora.", "lora_A"), "a LoRA, weights for the denoiser; load it by pipe.load_lora_weights"),
    (("emb_params", "string_to_param", "clip_l", "clip_g"), _TEXTUAL_INVERSION),
    (
        ("diffusion_model.", "down_blocks.", "text_model.", "first_stage_model.", "encoder.layers."),
        "the weights of a model; name it as the backbone instead",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a file is read.

    Attributes:
        tensors: At most this many.
        bytes: Of the whole file, at most.
    """

    tensors: int
    bytes: int


EMBEDDINGS = Limits(tensors=64, bytes=MAX_BYTES)
WEIGHTS = Limits(tensors=10_000, bytes=64_000_000_000)
"""A whole denoiser. No more memory is taken than the file has bytes, twice that in half precision."""


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """The header of a safetensors file; `tensors` reads the rest.

    All errors are ArtifactErrors of one line, which do not name the file.

    Attributes:
        source: The path of the file, or its bytes.
        dtypes: safetensors' dtype of each tensor, such as "F32".
        metadata: The free text entries of the header.
    """

    source: Path | bytes
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, source: Path | bytes) -> TensorFile:
        """Read a header of at most 1 MB and compare it with the size of the file.

        Raises:
            ArtifactError: The file cannot be read, is of another format, or damaged.
        """
        size = _checked_size(source)
        with _opened(source) as file:
            _refuse_other_formats(file.read(HEAD_BYTES))
            file.seek(0)
            try:
                header, promised = read_header(file)
            except ValueError as error:
                raise ArtifactError(f"damaged: {error}; {_MEND}") from error
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ArtifactError(f"damaged: its metadata is not text; {_MEND}")
        if size != promised:
            raise ArtifactError(f"damaged: it ends at byte {size}, its tensors at {promised}; {_MEND}")
        dtypes = {name: _dtype(entry) for name, entry in header.items()}
        return cls(source=source, dtypes=dtypes, metadata=metadata)

    def tensors(self, limits: Limits = EMBEDDINGS) -> dict[str, Tensor]:
        """Read all tensors as float32 on the CPU.

        Raises:
            ArtifactError: The file exceeds `limits`, is damaged, or has a tensor that is not floating point.
        """
        if len(self.dtypes) > limits.tensors:
            raise ArtifactError(f"it holds {len(self.dtypes)} tensors; at most {limits.tensors} are read")
        for name, dtype in self.dtypes.items():
            if dtype not in _FLOATS:
                raise ArtifactError(
                    f"tensor {name!r} is {dtype or 'of no dtype'}; allowed are {', '.join(_FLOATS)}"
                )
        _checked_size(self.source, limits)
        try:
            tensors = (
                safetensors.torch.load(self.source)
                if isinstance(self.source, bytes)
                else safetensors.torch.load_file(self.source)
            )
        except safetensors.SafetensorError as error:
            raise ArtifactError(f"damaged: {error}; {_MEND}") from error
        return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}


def read_capped(source: Path | bytes) -> bytes:
    """Return the whole file; ArtifactError if it cannot be read, is empty or has more than 64 MB."""
    _checked_size(source, EMBEDDINGS)
    with _opened(source) as file:
        return file.read(MAX_BYTES)


def _checked_size(source: Path | bytes, limits: Limits = WEIGHTS) -> int:
    """Return the bytes of an ordinary file that can be opened and is not empty; else ArtifactError."""
    size = len(source) if isinstance(source, bytes) else _file_size(source)
    if size == 0:
        raise ArtifactError(f"the file is empty; {_MEND}")
    if size > limits.bytes:
        raise ArtifactError(f"it is {size} bytes long; at most {limits.bytes} are read")
    return size


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _file_size(path: Path) -> int:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise ArtifactError(f"this is {kind}; name a file")
        path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ArtifactError(f"{reason}; check the path") from error
    return status.st_size


def foreign_kind(names: Collection[str]) -> str:
    """Say what a file that is no artifact is by the names of its tensors, and where it belongs."""
    for marks, what in _FOREIGN:
        if any(mark in name for name in names for mark in marks):
            return what
    if len(names) == 1 and "." not in next(iter(names)):  # the word it stands for, such as <cat-toy>
        return _TEXTUAL_INVERSION
    return "tensors without a hiper header; name the file that hiper fit wrote"


def _refuse_other_formats(head: bytes) -> None:
    """Raise ArtifactError unless a file starts as safetensors do: with a length and a JSON object."""
    if head[:2] == b"\x80\x02" or (head[:2] == b"PK" and b"data.pkl" in head):
        raise ArtifactError(
            "a PyTorch pickle, which can run code and is never opened here; a tensor of the reference script"
            " is read by hiper import"
        )
    if head[START : START + 1] != b"{":
        kind = looks_like(head).replace("damaged ", "")  # it may well be a sound picture
        raise ArtifactError(
            f"not a safetensors file{f' but {kind}' if kind else ', or damaged from its first byte on'};"
            " name the file that hiper fit wrote"
        )


def _dtype(entry: object) -> str:
    match entry:
        case {"dtype": str(dtype)}:
            return dtype
    return ""
