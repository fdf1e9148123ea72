"""FLUX.2 klein: token embeddings of Qwen3, three layers of it side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.embeddings import alone, paired
from hiper.backbones.flow import FlowBackbone
from hiper.backbones.matching import Layout
from hiper.backbones.packing import PATCH, packed, places, unpacked
from hiper.backbones.sampling_defaults import KLEIN, KLEIN_BASE, SamplingDefaults
from hiper.backbones.words import as_conditioning, chat_words
from hiper.conditioning import Conditioning, Placement, expanded

TEXT_AXIS = 3  # of the four axes of places: time, row, column, text


@final
class KleinBackbone(FlowBackbone):
    """A `diffusers.Flux2KleinPipeline`, step-distilled or base.

    The tail replaces padding, which the encoder masks but the transformer reads; text has places, and the last ones
    are among those it was trained on. With a tokenizer that pads on the left the last token embeddings are the
    template's, and the tail is appended.
    """

    pipeline_name: ClassVar[str] = "Flux2KleinPipeline"
    layout: ClassVar[Layout] = Layout(patch=PATCH, token_encoders=("text_encoder",) * 3, chat=True)
    max_length = 512

    def __init__(
        self,
        pipe: _diffusers.Pipeline,
        *,
        name: str,
        revision: str = "",
        default_guidance_scale: float | None = None,
    ) -> None:
        self._distilled = bool(pipe.config.is_distilled)
        self.uses_negative_prompt = self.uses_guidance = not self._distilled
        super().__init__(pipe, name=name, revision=revision, default_guidance_scale=default_guidance_scale)
        config = pipe.transformer.config
        self.family = "flux2-klein"
        self.placement: Placement = "replace" if pipe.tokenizer.padding_side == "right" else "append"
        self.embed_dim = int(config.joint_attention_dim)
        self._set_native(
            int(config.in_channels) // 4, int(pipe.default_sample_size), int(pipe.vae_scale_factor)
        )

    def _sampling_defaults(self) -> SamplingDefaults:
        return KLEIN if self._distilled else KLEIN_BASE

    def _encode(self, prompt: str) -> Conditioning:
        embeddings, _ = self._pipe.encode_prompt(prompt, self.device, max_sequence_length=self.max_length)
        pieces, lost = chat_words(
            self._pipe.tokenizer, prompt, max_length=self.max_length, enable_thinking=False
        )
        if self._pipe.tokenizer.padding_side == "left":
            pieces = (*[""] * (self.max_length - len(pieces)), *pieces)
        return as_conditioning(prompt, embeddings, pieces, lost)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        h, w = noisy.shape[2:]
        output = self._pipe.transformer(
            hidden_states=packed(noisy).to(self.dtype),
            timestep=self._sigma(t),
            guidance=None,
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            txt_ids=self._constant(_text_places, conditioning.sequence_length),
            img_ids=self._constant(places, h, w, 4),
            return_dict=False,
        )[0]
        return unpacked(output.float(), h, w)

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        if self._distilled:
            return self._all_put(alone(positive))
        return self._all_put(paired(positive, negatives))

    def _encoded(self, vae: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the posterior's mode, as the model's own training and pipelines do."""
        mode: Tensor = vae.encode(pixels).latent_dist.mode()
        return mode.float()

    def _scaled(self, latents: Tensor) -> Tensor:
        """Give every channel of every cell of a patch mean 0 and variance 1."""
        mean, std = self._statistics()
        return F.pixel_shuffle((F.pixel_unshuffle(latents, PATCH) - mean) / std, PATCH)

    def _unscaled(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return F.pixel_shuffle(F.pixel_unshuffle(latents, PATCH) * std + mean, PATCH)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        vae = self._pipe.vae
        mean, variance = (each.float()[:, None, None] for each in (vae.bn.running_mean, vae.bn.running_var))
        return mean, (variance + float(vae.config.batch_norm_eps)).sqrt()

    def _packed(self, latents: Tensor) -> Tensor:
        return F.pixel_unshuffle(latents, PATCH).to(self.dtype)


def _text_places(sequence_length: int, *, device: torch.device) -> Tensor:
    """Return the places of token embeddings: [length, 4]."""
    grid = torch.zeros(sequence_length, 4, device=device)
    grid[:, TEXT_AXIS] = torch.arange(sequence_length, device=device)
    return grid
