"""Sana: Gemma 2's token embeddings under a mask, behind an instruction; an autoencoder of 32 pixels a cell."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.base import Scheduler
from hiper.backbones.embeddings import masked
from hiper.backbones.flow import FlowBackbone
from hiper.backbones.sampling_defaults import SANA, SamplingDefaults
from hiper.backbones.words import as_conditioning, token_words
from hiper.conditioning import Conditioning, expanded
from hiper.errors import BackboneError


@final
class SanaBackbone(FlowBackbone):
    """A `diffusers.SanaPipeline`.

    The tail is appended: padding is masked, so there is none to replace. Every sentence follows an instruction to
    enhance it, of which the transformer reads the first embedding alone; negatives do without.
    """

    pipeline_name: ClassVar[str] = "SanaPipeline"
    usual: ClassVar[SamplingDefaults] = SANA
    schedulers: tuple[Scheduler, ...] = ("dpm++",)
    placement = "append"
    max_length = 300

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
        if config.get("guidance_embeds"):
            raise BackboneError(
                f"{name} is a Sana Sprint, which takes its guidance as an input; only Sana itself is supported"
            )
        self.family = "sana"
        pipe.tokenizer.padding_side = (
            "right"  # as its pipeline sets it whenever it reads; the key is the same before
        )
        self.embed_dim = int(config.caption_channels)
        factor = int(pipe.vae_scale_factor)
        self._set_native(int(config.in_channels), int(config.sample_size), factor)
        self.size_multiple = int(config.patch_size) * factor
        self._instruction: list[str] = (
            signature(pipe.__call__).parameters["complex_human_instruction"].default
        )

    def _encode(self, prompt: str) -> Conditioning:
        return self._read(self._instruction, prompt)

    def _encode_negative(self, prompt: str) -> Conditioning:
        return self._read([], prompt)

    def _read(self, instruction: list[str], prompt: str) -> Conditioning:
        embeddings, mask, _, _ = self._pipe.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_length,
            complex_human_instruction=instruction,
        )
        pieces, lost = self._pieces("\n".join(instruction), prompt.lower().strip())
        return as_conditioning(prompt, embeddings[mask.bool()][None], pieces, lost)

    def _pieces(self, before: str, read: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the tokens that are kept: the first, and the last `length` - 1 of the table with its padding."""
        tokenizer = self._pipe.tokenizer
        table = self.max_length + (len(tokenizer.encode(before)) - 2 if before else 0)
        pieces, lost = token_words(tokenizer, before + read, read, start=len(before), max_length=table)
        return (pieces[0], *pieces[table - self.max_length + 1 :]), lost

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        scale = self.timesteps * float(self._pipe.transformer.config.timestep_scale)
        output: Tensor = self._pipe.transformer(
            noisy.to(self.dtype),
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            encoder_attention_mask=self._constant(
                torch.ones, conditioning.token_embeddings.shape[:2], dtype=torch.long
            ),
            timestep=self._sigma(t) * scale,
            return_dict=False,
        )[0]
        return output[:, : noisy.shape[1]].float()

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        return {
            **self._all_put(masked(positive, negatives)),
            "negative_prompt": None,
            "use_resolution_binning": False,
        }

    def _encoded(self, vae: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:
        latent: Tensor = vae.encode(pixels).latent  # there is no posterior
        return latent.float()

    def _packed(self, latents: Tensor) -> Tensor:
        return latents  # the pipeline keeps them in float32
