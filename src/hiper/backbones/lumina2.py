"""Lumina Image 2: token embeddings of Gemma 2 under a mask; its time runs from noise to picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.embeddings import masked
from hiper.backbones.flow import FlowBackbone
from hiper.backbones.sampling_defaults import LUMINA2, SamplingDefaults
from hiper.backbones.words import as_conditioning, token_words
from hiper.conditioning import Conditioning, expanded

MARK = " <Prompt Start> "


@final
class Lumina2Backbone(FlowBackbone):
    """A `diffusers.Lumina2Pipeline`.

    The tail is appended directly behind the sentence: the transformer reads as many token embeddings as the mask
    counts, from the first on, so behind a gap nothing would be read. Every sentence follows a system prompt, but for
    negatives.
    """

    pipeline_name: ClassVar[str] = "Lumina2Pipeline"
    usual: ClassVar[SamplingDefaults] = LUMINA2
    placement = "append"
    max_length = 256

    def __init__(
        self,
        pipe: _diffusers.Pipeline,
        *,
        name: str,
        revision: str = "",
        default_guidance_scale: float | None = None,
    ) -> None:
        super().__init__(pipe, name=name, revision=revision, default_guidance_scale=default_guidance_scale)
        config = pipe.transformer.config
        self.family = "lumina2"
        self.embed_dim = int(config.cap_feat_dim)
        self._set_native(int(config.in_channels), int(pipe.default_sample_size), int(pipe.vae_scale_factor))
        if (
            self.device.type == "cuda"
        ):  # else they are copied there at every call, which makes the processor wait
            rope = pipe.transformer.rope_embedder
            rope.freqs_cis = [table.to(self.device) for table in rope.freqs_cis]

    def _encode(self, prompt: str) -> Conditioning:
        return self._read(self._pipe.system_prompt + MARK, prompt)

    def _encode_negative(self, prompt: str) -> Conditioning:
        return self._read("", prompt)

    def _read(self, before: str, prompt: str) -> Conditioning:
        embeddings, mask = self._pipe._get_gemma_prompt_embeds(  # noqa: SLF001
            before + prompt, device=self.device, max_sequence_length=self.max_length
        )
        pieces, lost = token_words(
            self._pipe.tokenizer, before + prompt, prompt, start=len(before), max_length=self.max_length
        )
        return as_conditioning(prompt, embeddings[mask.bool()][None], pieces, lost)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        output: Tensor = self._pipe.transformer(
            hidden_states=noisy.to(self.dtype),
            timestep=1 - self._sigma(t),
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            encoder_attention_mask=self._constant(
                torch.ones, conditioning.token_embeddings.shape[:2], dtype=torch.long
            ),
            return_dict=False,
        )[0]
        return -output.float()

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        return self._all_put(masked(positive, negatives))
