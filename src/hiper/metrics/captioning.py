"""A caption for a picture, by a network whose user named it."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from PIL import Image

from hiper.backbones import quiet
from hiper.errors import CaptionError
from hiper.images import clean_text
from hiper.metrics._transformers import (
    BLIP,
    FLORENCE,
    Kind,
    Network,
    load_network,
    reported_as_backbone_error,
)

_TASKS: dict[Kind, dict[str, str]] = {BLIP: {}, FLORENCE: {"text": "<CAPTION>"}}
_LONGEST = 60
"""Tokens; a text encoder reads 77."""
_BEAMS = 3


@final
class Captioner:
    """A BLIP (arXiv:2201.12086) or Florence-2 (arXiv:2311.06242) model that describes a picture in one sentence."""

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
    ) -> Captioner:
        """Load a model in the format of transformers; arguments and errors as of `ClipSimilarity.load`."""
        return cls(
            load_network(name_or_path, *_TASKS, local_only=local_only, device=device, revision=revision)
        )

    def caption(self, picture: Image.Image) -> str:
        """Describe an RGB picture; the same picture gives the same words.

        Raises:
            CaptionError: The network returns no words.
        """
        network, task = self._network, _TASKS[self._network.kind]
        with reported_as_backbone_error(str(network.folder)), quiet(), torch.inference_mode():
            inputs = network.processor(images=picture, return_tensors="pt", **task)
            tokens = network.model.generate(
                **inputs.to(network.model.device), max_new_tokens=_LONGEST, num_beams=_BEAMS, do_sample=False
            )
            words = str(network.processor.batch_decode(tokens, skip_special_tokens=True)[0])
        sentence = clean_text(words, what="caption", may_be_empty=True)
        if not sentence:
            raise CaptionError(f"{network.folder} finds no words for the picture; write its caption yourself")
        return sentence
