"""The models that are there, without loading any: what their configuration and the headers of their weights say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiper.backbones.declared import Declared, declarations
from hiper.backbones.registry import EMBEDDED, embedded_folder
from hiper.backbones.weights import read_header, read_index, weight_files
from hiper.errors import BackboneError
from hiper.options import suggestion

LICENCES: Mapping[str, str] = {
    "critters": "Apache-2.0, as hiper itself",
    "CompVis/stable-diffusion-v1-4": "CreativeML OpenRAIL-M",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML OpenRAIL-M",
    "stabilityai/stable-diffusion-2-1": "CreativeML Open RAIL++-M",
    "stabilityai/stable-diffusion-xl-base-1.0": "CreativeML Open RAIL++-M",
    "stabilityai/stable-diffusion-3.5-medium": "Stability AI Community License; gated",
    "black-forest-labs/FLUX.1-dev": "FLUX.1 [dev] Non-Commercial License; gated",
    "black-forest-labs/FLUX.1-schnell": "Apache-2.0",
    "black-forest-labs/FLUX.2-klein-4B": "Apache-2.0",
    "Tongyi-MAI/Z-Image-Turbo": "Apache-2.0",
    "Qwen/Qwen-Image": "Apache-2.0",
}
"""Well-known checkpoints: the licence that their pages named when this was written. The page itself decides."""

_WIDTHS = ("caption_channels", "joint_attention_dim", "cap_feat_dim", "cross_attention_dim")
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A model on this computer.

    Attributes:
        name: For --backbone.
        max_length: Token embeddings of a prompt; None where its files do not say.
        width: Of a token embedding, likewise.
        parameters: Numbers in its weights, by the dtype they are stored in.
        bytes: Of all weights.
        denoiser: Numbers in the denoiser's weights, all that is in memory during a fit besides what a step computes.
        licence: "" where it is not among the well-known.
    """

    name: str
    declared: Declared
    max_length: int | None
    width: int | None
    parameters: Mapping[str, int]
    bytes: int
    denoiser: int
    licence: str


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A model that is there and cannot be described: its name, and why."""

    name: str
    reason: str


def models() -> Iterator[LocalModel | Unusable]:
    """Yield the embedded models, then those of the local Hugging Face cache whose pipeline is supported."""
    places = {**{name: embedded_folder(name) for name in EMBEDDED}, **_cached()}
    for name, folder in places.items():
        try:
            yield describe(name, folder)
        except BackboneError as error:
            yield Unusable(name=name, reason=str(error))


def _cached() -> dict[str, Path]:
    """Return the newest supported snapshot of every repository in the cache; nothing is asked of the network."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return {}
    found = {}
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        newest = max(repository.revisions, key=lambda each: each.last_modified, default=None)
        if newest is not None and _pipeline(newest.snapshot_path) in declarations():
            found[repository.repo_id] = newest.snapshot_path
    return found


def _pipeline(folder: Path) -> str:
    return str(_json(folder / "model_index.json").get("_class_name"))


def describe(name: str, folder: Path) -> LocalModel:
    """Describe a diffusers folder; BackboneError for a pipeline that is not supported, and for damaged files."""
    index = read_index(folder)
    known = declarations()
    pipeline = str(index.get("_class_name"))
    if pipeline not in known:
        raise BackboneError(
            f"{folder} is a {pipeline}; supported are {', '.join(known)}{suggestion(pipeline, known)}"
        )
    declared = known[pipeline]
    counts = {
        part: _numbers([folder / part / name for name in found.files])
        for part, found in weight_files(folder).items()
    }
    config = _json(folder / declared.denoiser / "config.json")
    stored: dict[str, int] = {}
    for numbers in counts.values():
        for dtype, count in numbers.items():
            stored[dtype] = stored.get(dtype, 0) + count.elements
    return LocalModel(
        name=name,
        declared=declared,
        max_length=declared.max_length or _tokens(folder, declared),
        width=next((config[each] for each in _WIDTHS if isinstance(config.get(each), int)), None),
        parameters=stored,
        bytes=sum(count.bytes for numbers in counts.values() for count in numbers.values()),
        denoiser=sum(count.elements for count in counts.get(declared.denoiser, {}).values()),
        licence=LICENCES.get(name, ""),
    )


@dataclass(frozen=True, kw_only=True)
class _Count:
    elements: int
    bytes: int


def _numbers(files: Sequence[Path]) -> dict[str, _Count]:
    """Count by dtype what a component's weight files hold, by their headers."""
    counts: dict[str, _Count] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name != "__metadata__":
                dtype = _DTYPES.get(entry["dtype"], str(entry["dtype"]).lower())
                start, end = entry["data_offsets"]
                so_far = counts.get(dtype, _Count(elements=0, bytes=0))
                elements = _product(entry["shape"])
                counts[dtype] = _Count(elements=so_far.elements + elements, bytes=so_far.bytes + end - start)
    return counts


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _tokens(folder: Path, declared: Declared) -> int | None:
    """Return what the tokenizer takes, where that is the number of token embeddings: CLIP's in front of a UNet."""
    if declared.denoiser != "unet":
        return None
    length = _json(folder / "tokenizer" / "tokenizer_config.json").get("model_max_length")
    return length if isinstance(length, int) else None


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON table, an empty one where there is none."""
    if not path.is_file():
        return {}
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{path} is not valid JSON ({error}); download it again") from error
    return table if isinstance(table, dict) else {}
