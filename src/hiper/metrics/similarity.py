"""How much a picture resembles a sentence or another picture, to networks trained on millions of others.

Every score is the cosine of two embeddings: range -1 to 1, no unit, higher is better. Scores of different
networks do not compare, so a table names its network. Networks compute in float32 and see pictures as their own
preprocessing has it, in general the central square at 224 x 224 pixels: what lies beyond is not scored.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from hiper.backbones import resolve_device
from hiper.backbones._diffusers import first_line, quiet
from hiper.backbones.hub import explained
from hiper.backbones.weights import PICKLES, read_header
from hiper.errors import BackboneError, HiperWarning, ImageError
from hiper.nearest import suggestion
from hiper.subject import clean_text

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_TEXT_FILES = ["*.json", "*.txt"]
_WEIGHT_FILES = ["model.safetensors", "model-*-of-*.safetensors"]
_REFUSALS = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
_GREY = Image.new("RGB", (64, 64), "grey")


@final
class ClipSimilarity:
    """Cosines in the common space of pictures and sentences of a CLIP model (arXiv:2103.00020)."""

    def __init__(self, network: _Network, tokenizer: Any) -> None:
        self._network = network
        self._tokenizer = tokenizer

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        local_only: bool = True,
        device: str | None = None,
        revision: str | None = None,
    ) -> ClipSimilarity:
        """Load a CLIPModel in the format of transformers: a local folder, or a Hub id.

        local_only: a Hub id is looked up in the local cache and the network left alone; False allows to fetch it.
        device: cpu, cuda or mps; None takes the fastest there is. revision: branch, tag or commit of a Hub id.

        BackboneError says in one line why it cannot be had. Remote code is never run, pickles never read.
        """
        place = resolve_device(device)
        folder = _find(name_or_path, "clip", local_only, revision)
        network = _Network.load(folder, transformers.CLIPModel, transformers.CLIPImageProcessorPil, place)
        loaded = cls(network, _load_tokenizer(folder, network.model.config.text_config))
        with _told(folder):
            loaded.text(_GREY, "a picture")
        return loaded

    def text(self, picture: Image.Image, sentence: str) -> float:
        """Cosine of an RGB picture and a sentence: -1 to 1, higher is better; CLIP gives true captions 0.2 to 0.35.

        It is CLIPScore without its factor of 2.5, its cut at 0 and its "A photo depicts" before the sentence.
        HiperWarning if the sentence is longer than the model reads (77 tokens): the rest is not scored.
        Reference: arXiv:2104.08718, section 3.
        """
        ids = self._tokens(clean_text(sentence, what="sentence"))
        model = self._network.model
        with torch.inference_mode():
            output = model.get_text_features(input_ids=ids.to(model.device))
        return _cosine(self._embed(picture), self._network.direction(output))

    def image(self, a: Image.Image, b: Image.Image) -> float:
        """Cosine of two RGB pictures ("CLIP-I"): -1 to 1, higher is better, 1 for the same picture.

        Reference: arXiv:2208.12242, section 4.1.
        """
        return _cosine(self._embed(a), self._embed(b))

    def _embed(self, picture: Image.Image) -> Tensor:
        pixels = self._network.pixels(picture)
        with torch.inference_mode():
            return self._network.direction(self._network.model.get_image_features(pixel_values=pixels))

    def _tokens(self, sentence: str) -> Tensor:
        """Return the sentence as token numbers [1, length], cut at the length that the model reads."""
        most = int(self._network.model.config.text_config.max_position_embeddings)
        with quiet():
            whole = len(self._tokenizer(sentence).input_ids)
            kept = self._tokenizer(sentence, truncation=True, max_length=most, return_tensors="pt")
        if whole > most:
            read = self._tokenizer.decode(kept.input_ids[0], skip_special_tokens=True)
            warnings.warn(
                f"the sentence has {whole} tokens and the model reads {most}: only {read!r} is scored",
                HiperWarning,
                stacklevel=3,
            )
        ids: Tensor = kept.input_ids
        return ids


@final
class DinoSimilarity:
    """Cosines of the class tokens of a DINOv2 model (arXiv:2304.07193), which tells individuals of a kind apart."""

    def __init__(self, network: _Network) -> None:
        self._network = network

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        local_only: bool = True,
        device: str | None = None,
        revision: str | None = None,
    ) -> DinoSimilarity:
        """Load a Dinov2Model in the format of transformers; arguments and errors as in `ClipSimilarity.load`."""
        place = resolve_device(device)
        folder = _find(name_or_path, "dinov2", local_only, revision)
        loaded = cls(
            _Network.load(folder, transformers.Dinov2Model, transformers.BitImageProcessorPil, place)
        )
        with _told(folder):
            loaded.image(_GREY, _GREY)
        return loaded

    def image(self, a: Image.Image, b: Image.Image) -> float:
        """Cosine of two RGB pictures (the DINO score): -1 to 1, higher is better, 1 for the same picture.

        DreamBooth took ViT-S/16 of the first DINO, so its figures do not compare with these.
        Reference: arXiv:2208.12242, section 4.1.
        """
        return _cosine(self._embed(a), self._embed(b))

    def _embed(self, picture: Image.Image) -> Tensor:
        pixels = self._network.pixels(picture)
        with torch.inference_mode():
            return self._network.direction(self._network.model(pixel_values=pixels))


@dataclass(frozen=True)
class _Network:
    """A model of transformers and its preprocessing, both without usable types."""

    name: str
    model: Any
    processor: Any

    @classmethod
    def load(cls, folder: Path, model: Any, processor: Any, device: torch.device) -> _Network:
        """Load from the disk only; a weight that is not in the file is refused, not drawn at random."""
        _check_weights(folder)
        with _told(folder), quiet():
            loaded, report = model.from_pretrained(
                str(folder),
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            preprocessing = processor.from_pretrained(str(folder), local_files_only=True)
        if missing := sorted(report["missing_keys"]):
            raise BackboneError(
                f"{folder} lacks {len(missing)} weights ({missing[0]} first); download the model again"
            )
        return cls(str(folder), loaded.eval().to(device), preprocessing)

    def pixels(self, picture: Image.Image) -> Tensor:
        """Return a picture as the model wants it: [1, 3, height, width] on its device; ImageError unless RGB."""
        if picture.mode != "RGB":
            raise ImageError(
                f"the picture has mode {picture.mode}, allowed is RGB: pass it through convert_image"
            )
        pixels: Tensor = self.processor(picture, return_tensors="pt").pixel_values
        return pixels.to(self.model.device)

    def direction(self, output: Any) -> Tensor:
        """Return the pooled embedding as [embed] of length 1, float64 on the CPU."""
        embedding: Tensor = output.pooler_output[0].cpu().double()
        length = embedding.norm()
        if not 0 < length < float("inf"):
            raise BackboneError(
                f"{self.name} yields no usable numbers, its weights are damaged; download it again"
            )
        return embedding / length


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b).clamp(-1, 1))


def _load_tokenizer(folder: Path, config: Any) -> Any:
    """Load CLIP's tokenizer; BackboneError where transformers would go on with an empty or foreign vocabulary."""
    present = {file.name for file in folder.iterdir()}
    if "tokenizer.json" not in present and not {"vocab.json", "merges.txt"} <= present:
        raise BackboneError(
            f"{folder} has no tokenizer.json, nor vocab.json and merges.txt; download the model again"
        )
    with _told(folder), quiet():
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    # 2 stands in old configurations, where the model takes the largest number for the end mark
    if len(tokenizer) > config.vocab_size or config.eos_token_id not in (2, tokenizer.eos_token_id):
        raise BackboneError(
            f"{folder}: the tokenizer ({len(tokenizer)} tokens, end mark {tokenizer.eos_token_id}) is not the model's"
            f" ({config.vocab_size}, {config.eos_token_id}); download both from one place"
        )
    return tokenizer


def _find(name_or_path: str | Path, kind: str, local_only: bool, revision: str | None) -> Path:
    """Return the folder of a model of this kind, fetched if need be and allowed."""
    name = str(name_or_path)
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_kind(folder, kind)
        return folder
    if not _HUB_ID.fullmatch(name) or folder.parent.is_dir():
        near = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise BackboneError(
            f"no such folder: {name}{suggestion(folder.name, near)}; allowed are a folder with a {kind} model"
            " and a Hub id such as owner/name"
        )
    patterns = [*_TEXT_FILES, *_WEIGHT_FILES] if local_only else _TEXT_FILES
    with explained(name), quiet():
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=local_only)
        )
        _check_kind(folder, kind)  # before gigabytes of the wrong model are fetched
        if not local_only:
            snapshot_download(name, revision=folder.name, allow_patterns=_WEIGHT_FILES)
    return folder


def _check_kind(folder: Path, kind: str) -> None:
    config = folder / "config.json"
    try:
        table = json.loads(config.read_text(encoding="utf-8"))
        found = table["model_type"]
    except FileNotFoundError as error:
        raise BackboneError(
            f"{folder} has no config.json; a model in transformers format is needed"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{config} names no model_type, or is damaged; download it again") from error
    if found != kind:
        raise BackboneError(f"{folder} is a model of type {found}; allowed is {kind}")


def _check_weights(folder: Path) -> None:
    files = sorted(file for pattern in _WEIGHT_FILES for file in folder.glob(pattern))
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if not files and pickles:
        raise BackboneError(
            f"{folder} has only pickled weights ({pickles[0]}), which may run code; convert to safetensors"
        )
    if not files:
        raise BackboneError(f"{folder / _WEIGHT_FILES[0]} is missing; download the model again")
    for file in files:
        read_header(file)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turn every refusal of a library into one line."""
    try:
        yield
    except _REFUSALS as error:
        raise BackboneError(f"{folder} cannot be used: {first_line(error)}") from error
