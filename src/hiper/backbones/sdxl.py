"""Stable Diffusion XL: two CLIP text encoders, whose token embeddings stand side by side, and a pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hiper.backbones import _diffusers, single_file_xl
from hiper.backbones.embeddings import paired
from hiper.backbones.loading import Loading
from hiper.backbones.matching import Layout
from hiper.backbones.sampling_defaults import SDXL, SamplingDefaults
from hiper.backbones.single_file_parts import Header
from hiper.backbones.unet import UNetBackbone
from hiper.backbones.vocabulary import copy_vocabulary
from hiper.backbones.words import as_conditioning, clip_words, spelled
from hiper.conditioning import Conditioning, expanded


@final
class SdxlBackbone(UNetBackbone):
    """A `diffusers.StableDiffusionXLPipeline`. The tail replaces padding; the pooled vector is the sentence's own."""

    pipeline_name: ClassVar[str] = "StableDiffusionXLPipeline"
    denoiser_name: ClassVar[str] = "unet"
    usual: ClassVar[SamplingDefaults] = SDXL
    layout: ClassVar[Layout] = Layout(
        token_encoders=("text_encoder", "text_encoder_2"), pooled=("text_encoder_2",)
    )

    def __init__(
        self,
        pipe: _diffusers.Pipeline,
        *,
        name: str,
        revision: str = "",
        default_guidance_scale: float | None = None,
    ) -> None:
        super().__init__(pipe, name=name, revision=revision, default_guidance_scale=default_guidance_scale)
        self.family = "sdxl"
        self.max_length = int(pipe.tokenizer_2.model_max_length)

    @classmethod
    def from_single_file(cls, path: Path, header: Header, *, how: Loading, network: bool) -> SdxlBackbone:
        """Load one .safetensors checkpoint; `network` allows to fetch the vocabulary, nothing else."""
        layout = single_file_xl.describe(path, header, how.prediction_type)
        with TemporaryDirectory(prefix="hiper-config-") as name:
            config = Path(name)
            single_file_xl.write_config(layout, config)
            for tokenizer in ("tokenizer", "tokenizer_2"):
                copy_vocabulary(config / tokenizer, network=network)
            loaded = _diffusers.load_single_file(path, config, cls.pipeline_name, how.dtype)
        return cls._from_loaded(loaded, how, name=str(path), revision="", guidance_scale=None)

    def _encode(self, prompt: str) -> Conditioning:
        embeddings, _, pooled, _ = self._pipe.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False
        )
        converted = self._pipe.maybe_convert_prompt(prompt, self._pipe.tokenizer_2)
        pieces, lost = spelled(clip_words(self._pipe.tokenizer_2, converted), self.max_length)
        return as_conditioning(prompt, embeddings, pieces, lost, pooled=pooled)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        assert conditioning.pooled is not None
        output: Tensor = self._pipe.unet(
            noisy.to(self.dtype),
            self._put(t),
            timestep_cond=self._guidance_condition(len(noisy)),
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            added_cond_kwargs={
                "text_embeds": conditioning.pooled.to(self.dtype),
                "time_ids": self._sizes(len(noisy)),
            },
            return_dict=False,
        )[0]
        return output.float()

    def _sizes(self, batch: int) -> Tensor:
        """Return original size, crop and target size of an uncropped picture of native size: [batch, 6], pixels.

        float32, as a timestep is; arXiv:2307.01952, section 2.2.
        """
        side = self.resolution
        return self._constant(torch.tensor, ((side, side, 0, 0, side, side),) * batch, dtype=torch.float32)

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        return self._all_put(paired(positive, negatives))
