"""Look at weight files before a library does, so that damage is reported in one line.

Only headers are read: a safetensors file starts with the length of a JSON table of its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hiper import files
from hiper.backbones.variants import WeightFiles, choose_variant, library_of
from hiper.errors import BackboneError

_WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor", "processor")
_LARGEST_HEADER = 100_000_000


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file: tensor name to {dtype, shape, data_offsets}, and "__metadata__".

    Raises:
        BackboneError: The file is empty, truncated, of another format, or a git-lfs pointer.
    """
    if not path.is_file():  # a pipe is none, and would be waited for
        raise BackboneError(f"{path} is no ordinary file; download the model again")
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8) == b"version ":
            raise BackboneError(
                f"{path} is a git-lfs pointer, not the weights; run `git lfs pull` in its folder"
            )
        file.seek(0)
        try:
            header, promised = files.read_header(file, _LARGEST_HEADER)
        except ValueError as error:
            raise BackboneError(
                f"{path} is not a safetensors file, or is damaged ({error}); download it again"
            ) from error
    if not all(_is_entry(name, entry) for name, entry in header.items()):
        raise BackboneError(f"{path} is not a safetensors file, or is damaged; download it again")
    if size != promised:
        raise BackboneError(
            f"{path} is damaged: {size} bytes where {promised} are promised; download it again"
        )
    return header


def _is_entry(name: str, entry: object) -> bool:
    match entry:
        case {"dtype": str(), "shape": [*sides], "data_offsets": [int(), int()]}:
            return all(isinstance(side, int) for side in sides)
        case dict() if name == "__metadata__":
            return all(isinstance(text, str) for text in entry.values())
    return False


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


def check_weights(folder: Path) -> dict[str, WeightFiles]:
    """Check the weight files of a folder that are to be loaded; return them by component.

    Raises:
        BackboneError: One is missing, damaged or pickled, or lacks a tensor that a table of shards promises; or a
            tokenizer, which would be made without any word, is not there, or is another's.
    """
    for name, entry in read_index(folder).items():
        settings = folder / name / "tokenizer_config.json"
        named = name.startswith("tokenizer") and isinstance(entry, list) and any(entry)
        if named and not settings.is_file():
            raise BackboneError(f"{settings} is missing; download the model again")
        if named:
            _check_tokenizer(settings, str(entry[-1]))
    weights = weight_files(folder)
    for name, found in weights.items():
        headers = {file: read_header(folder / name / file) for file in found.files}
        tensors = _read_table(folder / name / found.table) if found.table else {}
        for tensor, shard in tensors.items():
            if tensor not in headers[shard]:
                raise BackboneError(
                    f"{folder / name / shard} lacks {tensor[:100]}, which is there by {found.table};"
                    " download the model again"
                )
    return weights


def _check_tokenizer(settings: Path, wanted: str) -> None:
    """Refuse one of CLIP in the place of one of T5, and the reverse, for whose files each lacks its own."""
    try:
        found = str(json.loads(settings.read_bytes())["tokenizer_class"])
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # nothing is said, or the library tells what is wrong
        return
    kinds = {kind for kind in ("CLIP", "T5") for name in (found, wanted) if name.startswith(kind)}
    if len(kinds) > 1:
        raise BackboneError(
            f"{settings} is of a {found}, model_index.json names a {wanted}: it belongs to another text encoder;"
            " download the model again"
        )


def weight_files(folder: Path) -> dict[str, WeightFiles]:
    """Return by component which weight files of a diffusers folder are loaded; none is opened but tables of shards.

    Raises:
        BackboneError: A component has none, or lacks a shard.
    """
    index = read_index(folder)
    return {
        name: component_files(folder / name, library_of(index, name))
        for name in weighted_components(index)
        if name != "safety_checker" or (folder / name).is_dir()
    }


def component_files(component: Path, library: str) -> WeightFiles:
    """Return which files in a component's folder are loaded; library: "diffusers" or "transformers"."""
    names = {file.name for file in component.iterdir()} if component.is_dir() else set()
    found = choose_variant(names, library, str(component))
    if found.table is None:
        return found
    shards = sorted(set(_read_table(component / found.table).values()))
    for shard in shards:
        if shard not in names:
            raise BackboneError(f"{shard[:100]!r} is missing in {component}; download the model again")
    return replace(found, files=tuple(shards))


def text_encoder_bytes(folder: Path) -> int:
    """Return what the weights of all text encoders take on the disk, of the files that are loaded."""
    return sum(
        (component / file).stat().st_size
        for component in folder.glob("text_encoder*")
        for file in component_files(component, "transformers").files
    )


def weighted_components(index: Mapping[str, Any]) -> list[str]:
    """Return the components of a model index that have weights, in alphabetical order."""
    entries = {name: entry for name, entry in index.items() if isinstance(entry, list) and any(entry)}
    return sorted(name for name in entries if not name.startswith(_WEIGHTLESS))


def _read_table(table: Path) -> dict[str, str]:
    """Return the shard of every tensor that a table of shards names."""
    try:
        tensors = dict(json.loads(table.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackboneError(
            f"{table} is no table of weight files, or is damaged; download it again"
        ) from error
    if not all(isinstance(shard, str) and Path(shard).name == shard for shard in tensors.values()):
        raise BackboneError(f"{table} names files outside of its folder; download it again")
    return tensors
