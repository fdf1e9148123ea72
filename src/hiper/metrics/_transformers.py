"""Vision networks of transformers: finding, checking and loading them, from the disk and without remote code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor

from hiper.backbones import (
    REFUSALS,
    check_part,
    choose_variant,
    component_files,
    explained,
    first_line,
    hashes,
    hub_answers,
    is_ours,
    quiet,
    read_header,
    repository_files,
    resolve_device,
)
from hiper.errors import BackboneError
from hiper.files import is_out_of_memory, loading_in_memory
from hiper.images import check_rgb
from hiper.options import suggestion


@dataclass(frozen=True)
class Kind:
    """A kind of network.

    Attributes:
        type: Its `model_type` in config.json.
        model: Its class in transformers.
        processor: The class of its preprocessing.
        example: A Hub id to name in messages.
        arguments: Of the class.
    """

    type: str
    model: str
    processor: str
    example: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)


CLIP = Kind("clip", "CLIPModel", "CLIPImageProcessorPil", "openai/clip-vit-large-patch14")
DINO = Kind("dinov2", "Dinov2Model", "BitImageProcessorPil", "facebook/dinov2-base")
VIT = Kind(  # the first DINO has no pooler
    "vit", "ViTModel", "ViTImageProcessorPil", "facebook/dino-vitb8", {"add_pooling_layer": False}
)
BLIP = Kind("blip", "BlipForConditionalGeneration", "AutoProcessor", "Salesforce/blip-image-captioning-base")
FLORENCE = Kind(
    "florence2", "Florence2ForConditionalGeneration", "AutoProcessor", "florence-community/Florence-2-base"
)

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_TEXTS = ["*.json", "*.txt"]
_WEIGHTS = ["model*.safetensors"]


@dataclass(frozen=True)
class Network:
    """A network in float32 and the preprocessing it was trained with."""

    folder: Path
    kind: Kind
    model: Any
    processor: Any

    def pixels(self, picture: Image.Image) -> Tensor:
        """Return an RGB picture as [1, 3, height, width] on the network's device; ImageError for another mode."""
        check_rgb(picture)
        with reported_as_backbone_error(f"the preprocessing of {self.folder}"):
            pixels: Tensor = self.processor(picture, return_tensors="pt").pixel_values
        return pixels.to(torch.device(self.model.device))

    def contents(self) -> dict[str, str]:
        """Hash both, by name."""
        return hashes({"network": self.model, "preprocessing": self.processor})

    def direction(self, output: Any) -> Tensor:
        """Return an output's pooled embedding as [embed] of length 1, float64 on the CPU."""
        embedding: Tensor = output.pooler_output[0].cpu().double()
        length = float(embedding.norm())
        if not 0 < length < float("inf"):
            raise BackboneError(
                f"{self.folder} yields no usable numbers: its weights are damaged, download it again"
            )
        return embedding / length


def load_network(
    name_or_path: str | Path, *kinds: Kind, local_only: bool, device: str | None, revision: str | None
) -> Network:
    """Load a network of one of the kinds, from a folder or the Hub; arguments as of `ClipSimilarity.load`.

    Raises:
        BackboneError: It cannot be found or used, or lacks a weight, which transformers would draw at random.
    """
    place = resolve_device(device)
    folder, kind = _find_folder(name_or_path, kinds, local_only, revision)
    with loading_in_memory(str(folder)):
        return _loaded(folder, kind, place)


def _loaded(folder: Path, kind: Kind, device: torch.device) -> Network:
    found = component_files(folder, "transformers")
    for file in found.files:
        read_header(folder / file)
    with reported_as_backbone_error(str(folder)), quiet():
        model, report = getattr(transformers, kind.model).from_pretrained(
            str(folder),
            dtype=torch.float32,
            variant=found.variant or None,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are in the report, which says more than the refusal
            output_loading_info=True,
            **kind.arguments,
        )
    check_part(model, str(folder), report, strict=False)
    with reported_as_backbone_error(f"the preprocessing of {folder}"), quiet():
        processor = getattr(transformers, kind.processor).from_pretrained(str(folder), local_files_only=True)
    return Network(folder, kind, model.eval().to(device), processor)


def load_tokenizer(network: Network) -> Any:
    """Load CLIP's tokenizer; BackboneError where transformers would take an empty or foreign vocabulary."""
    folder, config = network.folder, network.model.config.text_config
    present = {file.name for file in folder.iterdir()}
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= present:
        raise BackboneError(
            f"{folder} has no tokenizer.json, nor vocab.json and merges.txt; download the model again"
        )
    with reported_as_backbone_error(f"the tokenizer of {folder}"), quiet():
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    size, end = len(tokenizer), tokenizer.eos_token_id
    # 2 stands in old configurations, for which the model takes the largest number as the end mark
    if size > config.vocab_size or config.eos_token_id not in (2, end):
        raise BackboneError(
            f"{folder}: the tokenizer ({size} tokens, end mark {end}) is not the model's ({config.vocab_size},"
            f" {config.eos_token_id}); download both from one place"
        )
    return tokenizer


def _find_folder(
    name_or_path: str | Path, kinds: Sequence[Kind], local_only: bool, revision: str | None
) -> tuple[Path, Kind]:
    """Return the folder of a model and its kind: a local folder, or a Hub id's, fetched only if allowed."""
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        _check_hub_id(name, folder, kinds)
        return _from_hub(name, kinds, local_only, revision)
    return folder, _kind_of(folder, kinds)


def _check_hub_id(name: str, path: Path, kinds: Sequence[Kind]) -> None:
    """Refuse what can only be meant as a path, or is no id: the Hub is asked for plausible ids alone."""
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    if siblings or not _HUB_ID.fullmatch(name):
        raise BackboneError(
            f"no such folder: {name}{suggestion(path.name, siblings)}; allowed are the folder of a {_models(kinds)}"
            f" and a Hub id such as {kinds[0].example}"
        )


def _from_hub(name: str, kinds: Sequence[Kind], local_only: bool, revision: str | None) -> tuple[Path, Kind]:
    with explained(name), quiet():
        local_only = local_only or not hub_answers(name, "config.json", revision=revision)
        patterns = [*_TEXTS, *_WEIGHTS] if local_only else _TEXTS
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=local_only)
        )
        kind = _kind_of(folder, kinds)  # before the gigabytes of a wrong model are fetched
        if not local_only:
            names = repository_files(name, folder.name)
            files = _WEIGHTS if names is None else choose_variant(names, "transformers", name).files
            snapshot_download(name, revision=folder.name, allow_patterns=list(files))
    return folder, kind


def _kind_of(folder: Path, kinds: Sequence[Kind]) -> Kind:
    """Return which of the kinds a folder holds; BackboneError for any other model, or none."""
    config = folder / "config.json"
    if not config.is_file():
        raise BackboneError(f"{folder} has no config.json; the folder of a {_models(kinds)} is needed")
    try:
        found = json.loads(config.read_text(encoding="utf-8"))["model_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackboneError(f"{config} is damaged, or names no model_type; download it again") from error
    for kind in kinds:
        if found == kind.type:
            return kind
    types = " and ".join(kind.type for kind in kinds)
    raise BackboneError(
        f"{folder} is a model of type {found}; allowed is {types}, such as {kinds[0].example}"
    )


def _models(kinds: Sequence[Kind]) -> str:
    return " or ".join(kind.model for kind in kinds)


@contextmanager
def reported_as_backbone_error(what: str) -> Iterator[None]:
    """Turn a library's refusal into a BackboneError of one line; not a lack of memory, nor a mistake of ours."""
    try:
        yield
    except REFUSALS as error:
        if is_out_of_memory(error) or is_ours(error):
            raise
        reason = first_line(error).rstrip(".:")
        raise BackboneError(f"{what} cannot be used ({reason}); download it again") from error
