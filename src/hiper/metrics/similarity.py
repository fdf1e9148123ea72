"""How much a picture resembles a sentence or another picture, to networks trained on millions of others.

Every score is the cosine of two embeddings: range -1 to 1, no unit, higher is better. Scores of different
networks do not compare, so a table names its network. Networks compute in float32 and see a picture as their own
preprocessing has it, in general the central square at 224 x 224 pixels: what lies beyond is not scored.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from hiper.backbones import hashes, quiet, resolve_device
from hiper.errors import HiperWarning
from hiper.images import clean_text
from hiper.metrics._transformers import (
    CLIP,
    DINO,
    Network,
    find_folder,
    load_network,
    load_tokenizer,
    reported_as_backbone_error,
)

_GREY = Image.new("RGB", (64, 64), "grey")


@final
class ClipSimilarity:
    """Cosines in the space that pictures and sentences share in a CLIP model (arXiv:2103.00020)."""

    def __init__(self, network: Network, tokenizer: Any) -> None:
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

        BackboneError says in one line why a model cannot be had. Remote code is never run, pickles never read.
        """
        place = resolve_device(device)
        folder = find_folder(name_or_path, CLIP, local_only=local_only, revision=revision)
        network = load_network(folder, CLIP, place)
        loaded = cls(network, load_tokenizer(network))
        # A model that its preprocessing does not fit fails here, not in the middle of a job
        loaded.text(_GREY, "a picture")
        return loaded

    def contents(self) -> dict[str, str]:
        """Hash network, preprocessing and tokenizer, by name: what decides a score."""
        return {**self._network.contents(), **hashes({"tokenizer": self._tokenizer})}

    def text(self, picture: Image.Image, sentence: str) -> float:
        """Cosine of an RGB picture and a sentence: -1 to 1, no unit, higher is better.

        It is CLIPScore without its factor of 2.5, its cut at 0 and its "A photo depicts" before the sentence.
        HiperWarning if the sentence is longer than the model reads (77 tokens): the rest is not scored.
        Reference: arXiv:2104.08718, section 3.
        """
        ids = self._tokens(clean_text(sentence, what="sentence"))
        model = self._network.model
        with reported_as_backbone_error(str(self._network.folder)), torch.inference_mode():
            output = model.get_text_features(input_ids=ids.to(model.device))
        return _cosine(self._embed(picture), self._network.direction(output))

    def image(self, a: Image.Image, b: Image.Image) -> float:
        """Cosine of two RGB pictures ("CLIP-I"): -1 to 1, no unit, higher is better, 1 for the same picture.

        Reference: arXiv:2208.12242, section 4.1.
        """
        return _cosine(self._embed(a), self._embed(b))

    def _embed(self, picture: Image.Image) -> Tensor:
        pixels = self._network.pixels(picture)
        with reported_as_backbone_error(str(self._network.folder)), torch.inference_mode():
            output = self._network.model.get_image_features(pixel_values=pixels)
        return self._network.direction(output)

    def _tokens(self, sentence: str) -> Tensor:
        """Return the sentence as token numbers [1, length], cut at the length that the model reads."""
        most = int(self._network.model.config.text_config.max_position_embeddings)
        with quiet():
            whole = len(self._tokenizer(sentence).input_ids)
            ids: Tensor = self._tokenizer(
                sentence, truncation=True, max_length=most, return_tensors="pt"
            ).input_ids
        if whole > most:
            read = self._tokenizer.decode(ids[0], skip_special_tokens=True)
            warnings.warn(
                f"the sentence has {whole} tokens and the model reads {most}: only {read!r} is scored",
                HiperWarning,
                stacklevel=3,
            )
        return ids


@final
class DinoSimilarity:
    """Cosines of the class tokens of a DINOv2 model (arXiv:2304.07193), which tells individuals of a kind apart."""

    def __init__(self, network: Network) -> None:
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
        """Load a Dinov2Model in the format of transformers; arguments and errors as of `ClipSimilarity.load`."""
        place = resolve_device(device)
        folder = find_folder(name_or_path, DINO, local_only=local_only, revision=revision)
        loaded = cls(load_network(folder, DINO, place))
        loaded.image(_GREY, _GREY)
        return loaded

    def contents(self) -> dict[str, str]:
        """Hash network and preprocessing, by name: what decides a score."""
        return self._network.contents()

    def image(self, a: Image.Image, b: Image.Image) -> float:
        """Cosine of two RGB pictures (the DINO score): -1 to 1, no unit, higher is better, 1 for the same picture.

        DreamBooth took ViT-S/16 of the first DINO, so its figures do not compare with these.
        Reference: arXiv:2208.12242, section 4.1.
        """
        return _cosine(self._embed(a), self._embed(b))

    def _embed(self, picture: Image.Image) -> Tensor:
        pixels = self._network.pixels(picture)
        with reported_as_backbone_error(str(self._network.folder)), torch.inference_mode():
            output = self._network.model(pixel_values=pixels)
        return self._network.direction(output)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b).clamp(-1, 1))
