"""A caption for a picture, by a network whose user named it."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch
from PIL import Image

from hiper.backbones import quiet, resolve_device
from hiper.errors import CaptionError
from hiper.images import clean_text
from hiper.metrics._transformers import (
    BLIP,
    FLORENCE,
    Kind,
    Network,
    find_folder,
    kind_of,
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

    def __init__(self, network: Network, kind: Kind) -> None:
        self._network, self._kind = network, kind

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        local_only: bool = True,
        device: str | None = None,
        revision: str | None = None,
    ) -> Captioner:
        """Load a model in the format of transformers: a local folder, or a Hub id.

        local_only: a Hub id is looked up in the local cache and the network left alone; False allows to fetch it.
        device: cpu, cuda or mps; None takes the fastest there is. revision: branch, tag or commit of a Hub id.

        BackboneError says in one line why a model cannot be had. Remote code is never run, pickles never read.
        """
        place = resolve_device(device)
        folder = find_folder(name_or_path, *_TASKS, local_only=local_only, revision=revision)
        kind = kind_of(folder, *_TASKS)
        return cls(load_network(folder, kind, place), kind)

    def caption(self, picture: Image.Image) -> str:
        """Describe an RGB picture; the same picture gives the same words. CaptionError when no word comes."""
        network, task = self._network, _TASKS[self._kind]
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
