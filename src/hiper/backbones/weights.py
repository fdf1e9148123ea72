"""Look at weight files before a library does, so that damage is told in one line.

Only headers are read: a safetensors file starts with the length of a JSON table of its tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hiper.errors import BackboneError

_WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor", "processor")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_LARGEST_HEADER = 100_000_000


def read_header(path: Path) -> dict[str, Any]:
    """Return a safetensors file's table: tensor name -> {dtype, shape, data_offsets}, and "__metadata__".

    BackboneError for an empty, truncated or foreign file, and for a git-lfs pointer.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise BackboneError(
                f"{path} is a git-lfs pointer, not the weights; run `git lfs pull` in its folder"
            )
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _LARGEST_HEADER:
            raise BackboneError(
                f"{path} ({size} bytes) is not a safetensors file, or is damaged; download it again"
            )
        text = file.read(length)
    header = _parse(text, path) if len(text) == length else None
    promised = 8 + length + max(map(_end, (header or {}).values()), default=0)
    if header is None or size != promised:
        raise BackboneError(
            f"{path} is damaged: {size} bytes where {promised} are promised; download it again"
        )
    return header


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{path} is not a safetensors file, or is damaged; download it again") from error
    if not isinstance(header, dict) or not all(_is_entry(name, entry) for name, entry in header.items()):
        raise BackboneError(f"{path} is not a safetensors file, or is damaged; download it again")
    return header


def _is_entry(name: str, entry: object) -> bool:
    match entry:
        case {"dtype": str(), "shape": [*sides], "data_offsets": [int(), int()]}:
            return all(isinstance(side, int) for side in sides)
        case dict() if name == "__metadata__":
            return all(isinstance(text, str) for text in entry.values())
    return False


def _end(entry: Mapping[str, Any]) -> int:
    """Return where a tensor ends; 0 for the metadata."""
    return int(entry["data_offsets"][1]) if "shape" in entry else 0


def read_index(folder: Path) -> dict[str, Any]:
    """Return model_index.json of a diffusers folder; BackboneError when it is missing or broken."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise BackboneError(f"{folder} has no model_index.json; a model folder in diffusers format is needed")
    try:
        table = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{index} is not valid JSON ({error}); download it again") from error
    if not isinstance(table, dict):
        raise BackboneError(f"{index} is not a table of components; download it again")
    return table


def check_components(index: Mapping[str, Any], folder: Path) -> None:
    """Refuse components that would need code from outside diffusers and transformers."""
    for name, entry in index.items():
        library = entry[0] if isinstance(entry, list) and entry else None
        if library not in (None, "diffusers", "transformers", "stable_diffusion"):
            raise BackboneError(
                f"{folder}: component {name} wants the code of {library!r};"
                " only components of diffusers and transformers are loaded, remote code never"
            )


def check_weights(folder: Path) -> str | None:
    """Check every weight file of a folder; return the variant to load, None for the plain files.

    BackboneError names the missing, damaged or pickled file.
    """
    names = weighted_components(read_index(folder))
    for name in names:
        if name == "safety_checker" and not (folder / name).is_dir():
            continue
        files = sorted((folder / name).glob("*.safetensors"))
        if not files:
            raise _missing(folder / name)
        for file in files:
            read_header(file)
        _check_shards(folder / name)
    plain = [file for file in (folder / names[-1]).glob("*.safetensors") if ".fp16." not in file.name]
    return None if plain else "fp16"


def text_encoder_bytes(folder: Path) -> int:
    """Return what the weights of all text encoders take on the disk."""
    return sum(file.stat().st_size for file in folder.glob("text_encoder*/*.safetensors"))


def weighted_components(index: Mapping[str, Any]) -> list[str]:
    """Return the components of a model index that have weights, in alphabetical order."""
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list) and any(entry)}
    return sorted(name for name in entries if not name.startswith(_WEIGHTLESS))


def _check_shards(component: Path) -> None:
    """Every file that a table of shards names must be there."""
    for table in sorted(component.glob("*.safetensors.index.json")):
        there = {file.name for file in component.iterdir()}
        for shard in _shards(table):
            if shard not in there:
                raise BackboneError(f"{shard[:100]!r} is missing in {component}; download the model again")


def _shards(table: Path) -> list[str]:
    try:
        shards = set(json.loads(table.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackboneError(
            f"{table} is no table of weight files, or is damaged; download it again"
        ) from error
    if not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
        raise BackboneError(f"{table} names files outside of its folder; download it again")
    return sorted(shards)


def _missing(component: Path) -> BackboneError:
    stem = "diffusion_pytorch_model" if component.name in ("unet", "vae", "transformer") else "model"
    pickles = [file.name for file in sorted(component.glob("*")) if file.suffix in PICKLES]
    if pickles:
        return BackboneError(
            f"{component} has only pickled weights ({pickles[0]}), which may run code; convert to safetensors"
        )
    return BackboneError(f"{component / stem}.safetensors is missing; download the model again")
