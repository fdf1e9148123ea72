"""Artifact: what one fit has learnt, as one self-describing safetensors file.

Tensors are named `hiper.<name>`; `header` describes the header. One more tensor keeps other
tools from taking a tail for a textual inversion: diffusers refuses a file of two tensors, and ComfyUI, which takes
the first one whatever its name, finds one of a width that fits no model.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor

from hiper.artifacts.header import PREFIX, TEXTS, UNKNOWN_SEED, ArtifactHeader, decode, encode
from hiper.artifacts.header import SCHEMA as SCHEMA
from hiper.artifacts.portable import portable
from hiper.artifacts.result import EditResult
from hiper.artifacts.sharing import WEIGHT_NAME, find_shared, push_shared, save_shared, shared_files
from hiper.backbones import MODELSPEC, OPTION, Prediction, parse_prediction
from hiper.conditioning import TAIL
from hiper.errors import ArtifactError, HiperWarning
from hiper.files import EMBEDDINGS, MAX_HEADER, WEIGHTS, Limits, TensorFile, atomic_write, foreign_kind
from hiper.options import method_names

if TYPE_CHECKING:
    from hiper.backbones import Backbone

GUARD = f"{PREFIX}!not-a-textual-inversion"
"""Sorts before every other name, and so comes first in the file."""

SOURCE = f"{PREFIX}source"
"""Tensor of the picture's latents."""

TAILS = ("hiper",)
"""Methods whose tensors are token embeddings; their files are small, and read within narrow limits."""

LARGEST_SOURCE = 2**24
"""Numbers in the latents of a source; those of a picture of 4096 x 4096 pixels have 2**22."""

LARGEST_LENGTH = 1024
"""Token embeddings in a tensor; models read 512 at most."""

FINGERPRINT_TOLERANCE = 0.004
"""Relative root mean square: more than float16 or bfloat16 costs, less than any training changes."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Artifact(ArtifactHeader):
    """What a method learnt from one picture on one backbone, and everything needed to use it again.

    Attributes:
        tensors: What was learnt, by name, made float32 on the CPU: token embeddings [tokens, embed_dim] of one width
            for the method `hiper`, else weights, latents or entries of a vocabulary, of any shape.
        source: Latents of the picture at the model's native size, [1, c, h, w], made float16 on the CPU, by which
            edits keep what their prompt does not change; None where there are none.

    Raises:
        ArtifactError: A tensor is empty, not finite, not of floats, or of a wrong shape.
    """

    tensors: Mapping[str, Tensor]
    source: Tensor | None = None

    def __post_init__(self) -> None:
        tensors = _checked_tensors(self.tensors, _limits(self.method))
        if self.method in TAILS:
            _check_rows(tensors)
        object.__setattr__(self, "tensors", tensors)
        if self.source is not None:
            object.__setattr__(self, "source", _checked_source(self.source))

    @property
    def embed_dim(self) -> int | None:
        """Numbers per token embedding; None for a method that learns something else."""
        return next(iter(self.tensors.values())).shape[1] if self.method in TAILS else None

    @property
    def prediction_type(self) -> Prediction | None:
        """What the model predicted in the fit; None for a flow, and in files of earlier releases."""
        return parse_prediction(self.extra.get(MODELSPEC, ""))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the file atomically.

        Args:
            path: Where to.
            overwrite: Whether a file that is there may be replaced.

        Returns:
            The path.

        Raises:
            OutputError: The file exists, or cannot be written.
        """
        atomic_write(Path(path), self.to_bytes(), overwrite=overwrite)
        return Path(path)

    def to_bytes(self) -> bytes:
        """Serialise; the same artifact gives the same bytes."""
        named = {f"{PREFIX}{name}": tensor for name, tensor in self.tensors.items()}
        kept = {} if self.source is None else {SOURCE: self.source}
        blob = safetensors.torch.save({GUARD: torch.zeros(1), **named, **kept}, metadata=encode(self))
        length = int.from_bytes(blob[:8], "little")
        entries = json.loads(blob[8 : 8 + length])  # safetensors writes them in random order
        text = json.dumps(entries, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        if len(text) > MAX_HEADER:
            raise ArtifactError(f"the header takes {len(text)} bytes; at most {MAX_HEADER}: shorten `extra`")
        return len(text).to_bytes(8, "little") + text + blob[8 + length :]

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Read a file that `save` wrote.

        Args:
            path: The file; its size is bounded before memory is taken, and nothing is unpickled.

        Raises:
            ArtifactError: It is damaged, or no artifact; the message says what it is.
        """
        try:
            return cls.parse(Path(path))
        except ArtifactError as error:
            raise ArtifactError(f"{str(path)!r}: {error}") from error

    @classmethod
    def parse(cls, source: Path | bytes) -> Artifact:
        """Read a file, or what `to_bytes` returned, as `load` does; errors do not name the file."""
        file = TensorFile.open(source)
        if f"{PREFIX}checkpoint" in file.metadata:
            raise ArtifactError("the checkpoint of an unfinished fit; resume that fit to finish it")
        if f"{PREFIX}schema" not in file.metadata:
            raise ArtifactError(foreign_kind(file.dtypes))
        fields = decode(file.metadata)
        tensors = file.tensors(_limits(fields["method"]))
        picture = tensors.pop(SOURCE, None)
        own = _unprefixed({name: tensor for name, tensor in tensors.items() if name != GUARD})
        return cls(**fields, tensors=own, source=picture)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | Path,
        *,
        weight_name: str = WEIGHT_NAME,
        subfolder: str = "",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Artifact:
        """Load from a file, a folder that `save_pretrained` wrote, or a repository of the Hub.

        Args:
            path_or_repo: A file, a folder, or a Hub repository such as "owner/name".
            weight_name: The file in the folder.
            subfolder: Where it is in the folder.
            revision: Branch, tag or commit.
            token: As in huggingface_hub; None takes the one of `hf auth login`.
            cache_dir: Where downloads are kept, as in huggingface_hub.
            local_files_only: Never use the network.

        Raises:
            ArtifactError: There is no artifact, or it cannot be reached.
        """
        found = find_shared(
            path_or_repo,
            weight_name=weight_name,
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls.load(found)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        results: Sequence[EditResult] = (),
        license: str | None = None,  # noqa: A002
        overwrite: bool = False,
        source: bool = False,
    ) -> Path:
        """Write `hiper.safetensors`, a model card and the pictures it shows.

        The copy holds no path of this computer and no thumbnail of the picture that was learnt.

        Args:
            folder: Where to.
            results: Edits whose pictures and prompts the card shows.
            license: Of the card, as the Hub names it; None refers to the base model's.
            overwrite: Whether files that are there may be replaced.
            source: Share the picture's latents too, from which the picture can be decoded.

        Returns:
            The folder.

        Raises:
            OutputError: A file exists, or cannot be written.
            OptionError: The licence is no identifier of the Hub.
        """
        return save_shared(self._shared(results, license, source=source), folder, overwrite=overwrite)

    def push_to_hub(
        self,
        repo: str,
        *,
        results: Sequence[EditResult] = (),
        license: str | None = None,  # noqa: A002
        private: bool = False,
        token: str | bool | None = None,
        source: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit.

        Args:
            repo: Such as "owner/name"; created if it is not there.
            results: Edits whose pictures and prompts the card shows.
            license: Of the card, as the Hub names it; None refers to the base model's.
            private: Whether a new repository is private.
            token: None takes the one of `hf auth login`.
            source: Share the picture's latents too, from which the picture can be decoded.

        Returns:
            The address of the commit.

        Raises:
            OutputError: The Hub refuses, or cannot be reached.
            OptionError: The licence is no identifier of the Hub.
        """
        return push_shared(self._shared(results, license, source=source), repo, private=private, token=token)

    def _shared(
        self, results: Sequence[EditResult], licence: str | None, *, source: bool
    ) -> dict[str, bytes]:
        shared = self.shareable(source=source)
        return shared_files(shared, shared.to_bytes(), results, license=licence, embed=self.embed_dim)

    def shareable(self, *, source: bool) -> Artifact:
        """Return a portable copy, without the picture's latents unless `source` asks for them."""
        shared = portable(self)
        return shared if source else replace(shared, source=None)

    def __repr__(self) -> str:
        return f"Artifact(method={self.method!r}, backbone={self.backbone!r}, caption={self.caption!r})"

    def describe(self) -> dict[str, object]:
        """Return what `hiper show` prints, ready for JSON: no tensor values, no thumbnail."""
        texts = {name: getattr(self, name) for name in TEXTS}
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {
            "schema": SCHEMA,
            **texts,
            "fingerprint": hashlib.sha256(json.dumps(self.fingerprint).encode()).hexdigest()[:16],
            "seed": None if self.seed == UNKNOWN_SEED else self.seed,
            "options": dict(self.options),
            "edit": dict(self.edit),
            "tensors": _described(self.tensors),
            "source": None if self.source is None else list(self.source.shape),
            "figures": figures,
            "versions": dict(self.versions),
            "extra": dict(self.extra),
        }


def fits(artifact: Artifact, backbone: Backbone) -> bool:
    """Whether family and width are the backbone's; no weight is read, so this may be asked during a fit."""
    return (artifact.family, artifact.embed_dim or backbone.embed_dim) == (
        backbone.family,
        backbone.embed_dim,
    )


def check_family(artifact: Artifact, backbone: Backbone) -> None:
    """Raise ArtifactError unless the artifact is of the backbone's family and width."""
    if not fits(artifact, backbone):
        embed = artifact.embed_dim or backbone.embed_dim
        raise ArtifactError(
            f"fitted on {artifact.backbone} ({artifact.family}, token embeddings of width {embed}), but {backbone.id}"
            f" is {backbone.family} of width {backbone.embed_dim}; use that model, or fit again on this one"
        )


def check_compatible(artifact: Artifact, backbone: Backbone) -> None:
    """Check that an artifact can be used on a backbone; a HiperWarning is issued for another checkpoint of its family.

    Raises:
        ArtifactError: It is of another family or width, or was fitted under another prediction type.
    """
    check_family(artifact, backbone)
    distance = fingerprint_distance(artifact.fingerprint, backbone.fingerprint())
    if distance <= FINGERPRINT_TOLERANCE:
        if artifact.prediction_type not in (None, backbone.objective):
            raise ArtifactError(
                f"fitted on {artifact.backbone} as a model that predicts {artifact.prediction_type}, but {backbone.id}"
                f" was loaded as one that predicts {backbone.objective}; state {OPTION} what it predicts, or fit again"
            )
    else:
        warnings.warn(
            f"fitted on {artifact.backbone}, whose weights differ from those of {backbone.id}: the subject"
            " may come out less alike; fit again on this model if it does",
            HiperWarning,
            stacklevel=3,
        )


def fingerprint_distance(theirs: tuple[float, ...], ours: tuple[float, ...]) -> float:
    """Return the relative root mean square difference: 0 for the same weights, infinity when not comparable."""
    if len(theirs) != len(ours):
        return math.inf
    difference, norm = math.dist(theirs, ours), math.hypot(*ours)
    return difference / norm if norm else math.inf * bool(difference)


def _unprefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    strangers = [name for name in tensors if not name.startswith(PREFIX)]
    if strangers:
        raise ArtifactError(f"tensor {strangers[0]!r} is none of hiper's; name the file that hiper fit wrote")
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def _limits(method: str) -> Limits:
    """Return what may be read of a file: much of it only where an installed method needs it."""
    return WEIGHTS if method in method_names() and method not in TAILS else EMBEDDINGS


def _checked_tensors(tensors: Mapping[str, Tensor], limits: Limits) -> dict[str, Tensor]:
    most = limits.tensors - 1  # the guard is one more
    if not 1 <= len(tensors) <= most:
        raise ArtifactError(f"{len(tensors)} tensors; allowed are 1 to {most}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ArtifactError(f"tensor {name!r} is {tensor.dtype}; allowed are float dtypes")
        if not tensor.numel():
            raise ArtifactError(f"tensor {name!r} of shape {list(tensor.shape)} is empty; fit again")
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(
                f"tensor {name!r} holds NaN or infinity, which draw black pictures; fit again"
            )
    return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}


def _checked_source(source: Tensor) -> Tensor:
    shape = list(source.shape)
    if source.dim() != 4 or shape[0] != 1 or not 0 < source.numel() <= LARGEST_SOURCE:
        raise ArtifactError(f"its source has shape {shape}; allowed is [1, channels, height, width]")
    half = source.detach().to("cpu", torch.float16).contiguous()
    if not source.is_floating_point() or not bool(half.isfinite().all()):
        raise ArtifactError("its source is no table of finite numbers in half precision; fit again")
    return half


def _check_rows(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or len(tensor) > LARGEST_LENGTH:
            raise ArtifactError(
                f"tensor {name!r} has shape {list(tensor.shape)}; allowed is [sequence_length, embed_dim], 1"
                f" or more each, and {LARGEST_LENGTH} token embeddings"
            )
    widths = {tensor.shape[1] for tensor in tensors.values()}
    if len(widths) > 1:
        raise ArtifactError(
            f"token embeddings of widths {' and '.join(map(str, sorted(widths)))}; allowed is one width"
        )
    if TAIL not in tensors:
        raise ArtifactError(
            f"it holds no tensor {TAIL!r} but {', '.join(map(repr, sorted(tensors)[:3]))}; name the file that"
            " hiper fit wrote"
        )


def _described(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """Return shapes by name; of a whole denoiser only its size."""
    if len(tensors) > EMBEDDINGS.tensors:
        return {"count": len(tensors), "numbers": sum(tensor.numel() for tensor in tensors.values())}
    return {name: list(tensor.shape) for name, tensor in tensors.items()}
