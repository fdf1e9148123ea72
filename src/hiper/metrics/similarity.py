"""How much a picture resembles a sentence or another picture, by CLIP, DINO and DINOv2.

Similarities are cosines of two embeddings: range -1 to 1, no unit, higher is better. Scores of different
networks do not compare, so a table names its network. Networks compute in float32 and see a picture as their own
preprocessing has it, in general the central square at 224 x 224 pixels: what lies beyond is not scored.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self, final

import torch
from PIL import Image
from torch import Tensor

from hiper.backbones import hashes, quiet
from hiper.errors import BackboneError, HiperWarning
from hiper.images import clean_text
from hiper.metrics._transformers import (
    CLIP,
    DINO,
    VIT,
    Kind,
    Network,
    load_network,
    load_tokenizer,
    reported_as_backbone_error,
)

_GREY = Image.new("RGB", (64, 64), "grey")


class _Scorer(ABC):
    """Scores of pictures by a network of one of some kinds."""

    _KINDS: ClassVar[tuple[Kind, ...]]

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
    ) -> Self:
        """Load a model in the format of transformers. Remote code is never run, pickles are never read.

        Args:
            name_or_path: A local folder, or a Hub id.
            local_only: Look a Hub id up in the local cache alone; False allows to fetch it.
            device: cpu, cuda or mps; None takes the fastest there is.
            revision: Branch, tag or commit of a Hub id.

        Raises:
            BackboneError: The model cannot be found or used.
        """
        network = load_network(
            name_or_path, *cls._KINDS, local_only=local_only, device=device, revision=revision
        )
        loaded = cls(network)
        loaded._try()
        return loaded

    def contents(self) -> dict[str, str]:
        """Return the hashes of all that decides a score, by name."""
        return self._network.contents()

    @abstractmethod
    def _try(self) -> None:
        """Fail now, not in the middle of a job, where the preprocessing does not fit the model."""


class _Similarity(_Scorer):
    """Cosines of the embeddings of pictures."""

    def image(self, a: Image.Image, b: Image.Image) -> float:
        """Return the cosine of two RGB pictures: -1 to 1, no unit, higher is better, 1 for the same picture.

        These are the scores CLIP-I and DINO of arXiv:2208.12242, section 4.1; DreamBooth took ViT-S/16 of the first
        DINO, so its DINO figures do not compare with these.
        """
        return _cosine(self._embed(a), self._embed(b))

    def _try(self) -> None:
        self.image(_GREY, _GREY)

    def _embed(self, picture: Image.Image) -> Tensor:
        pixels = self._network.pixels(picture)
        with reported_as_backbone_error(str(self._network.folder)), torch.inference_mode():
            output = self._output(pixels)
        return self._network.direction(output)

    @abstractmethod
    def _output(self, pixels: Tensor) -> Any:
        """Return the network's output, with a pooled embedding, for pixels [1, 3, height, width]."""


@final
class ClipSimilarity(_Similarity):
    """Cosines in the space that pictures and sentences share in a CLIP model (arXiv:2103.00020)."""

    _KINDS = (CLIP,)

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._tokenizer = load_tokenizer(network)

    def contents(self) -> dict[str, str]:
        """Return the hashes of network, preprocessing and tokenizer, by name."""
        return {**super().contents(), **hashes({"tokenizer": self._tokenizer})}

    def text(self, picture: Image.Image, sentence: str) -> float:
        """Return the cosine of an RGB picture and a sentence: -1 to 1, no unit, higher is better.

        It is CLIPScore (arXiv:2104.08718, section 3) without its factor of 2.5, its cut at 0 and its "A photo
        depicts" before the sentence. A HiperWarning is issued if the sentence is longer than the model reads
        (77 tokens): the rest is not scored.
        """
        ids = self._tokens(clean_text(sentence, what="sentence"))
        model = self._network.model
        with reported_as_backbone_error(str(self._network.folder)), torch.inference_mode():
            output = model.get_text_features(input_ids=ids.to(model.device))
        return _cosine(self._embed(picture), self._network.direction(output))

    def _try(self) -> None:
        self.text(_GREY, "a picture")

    def _output(self, pixels: Tensor) -> Any:
        return self._network.model.get_image_features(pixel_values=pixels)

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
class DinoSimilarity(_Similarity):
    """Cosines of the class tokens of a DINOv2 model (arXiv:2304.07193), which tells individuals of a kind apart."""

    _KINDS = (DINO,)

    def _output(self, pixels: Tensor) -> Any:
        return self._network.model(pixel_values=pixels)


@final
class StructureDistance(_Scorer):
    """How far the layouts of two pictures are apart, by a ViT such as the first DINO's, or a DINOv2 model.

    The structure distance of Splice (arXiv:2201.00424, section 3.2): mean squared difference of the self-similarities
    of two pictures, which are the cosines between the keys of all tokens, the class token among them, in the last
    attention layer. PIE-Bench (arXiv:2310.01506) reports it.
    """

    _KINDS = (VIT, DINO)

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        # transformers calls a key projection k_proj, or key in the older classes
        keys = [
            module
            for name, module in network.model.named_modules()
            if name.rpartition(".")[2] in ("k_proj", "key")
        ]
        if not keys:
            raise BackboneError(f"{network.folder} has no attention layer; choose a model that has some")
        self._key_projection = keys[-1]

    def distance(self, a: Image.Image, b: Image.Image) -> float:
        """Return the distance of two RGB pictures: 0 to 4, no unit, lower is better, 0 for the same picture."""
        return float((self._self_similarity(a) - self._self_similarity(b)).square().mean())

    def _try(self) -> None:
        self.distance(_GREY, _GREY)

    def _self_similarity(self, picture: Image.Image) -> Tensor:
        """Return the cosines [tokens, tokens] between the keys of a picture, float64 on the CPU."""
        outputs: list[Tensor] = []
        pixels = self._network.pixels(picture)
        with (
            self._key_projection.register_forward_hook(lambda _module, _inputs, keys: outputs.append(keys)),
            reported_as_backbone_error(str(self._network.folder)),
            torch.inference_mode(),
        ):
            self._network.model(pixel_values=pixels)
        keys = torch.nn.functional.normalize(outputs[0][0].cpu().double(), dim=-1)
        if not keys.isfinite().all():
            raise BackboneError(
                f"{self._network.folder} yields no usable numbers: its weights are damaged, download it again"
            )
        return keys @ keys.T


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b).clamp(-1, 1))
