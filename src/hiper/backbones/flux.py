"""FLUX.1: token embeddings of T5, CLIP's pooled vector; guidance distilled into the weights (dev) or none (schnell)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.embeddings import alone, paired
from hiper.backbones.flow import FlowBackbone
from hiper.backbones.matching import Layout
from hiper.backbones.packing import PATCH, packed, places, unpacked
from hiper.backbones.sampling_defaults import FLUX_DEV, FLUX_SCHNELL, SamplingDefaults
from hiper.backbones.words import as_conditioning, token_words
from hiper.conditioning import Conditioning, expanded

FITTING_GUIDANCE = 1.0


@final
class FluxBackbone(FlowBackbone):
    """A `diffusers.FluxPipeline`, of the dev or the schnell kind.

    The tail replaces T5's padding: nothing masks it, and the transformer gives text no places, so the last token
    embeddings are as good as any and no sentence of ordinary length reaches them.

    dev was distilled to draw what another model draws under guidance, and takes the scale as an input. It is
    fitted at scale 1, as diffusers' own DreamBooth commands do: only there is noise - picture what it should say.
    """

    pipeline_name: ClassVar[str] = "FluxPipeline"
    layout: ClassVar[Layout] = Layout(
        patch=PATCH, token_encoders=("text_encoder_2",), pooled=("text_encoder",)
    )

    def __init__(
        self,
        pipe: _diffusers.Pipeline,
        *,
        name: str,
        revision: str = "",
        default_guidance_scale: float | None = None,
    ) -> None:
        self._is_guidance_distilled = bool(pipe.transformer.config.guidance_embeds)
        self.uses_negative_prompt = not self._is_guidance_distilled
        super().__init__(pipe, name=name, revision=revision, default_guidance_scale=default_guidance_scale)
        self.family = "flux1"
        self.max_length = 512 if self._is_guidance_distilled else 256
        config = pipe.transformer.config
        self.embed_dim = int(config.joint_attention_dim)
        self._set_native(
            int(config.in_channels) // 4, int(pipe.default_sample_size), int(pipe.vae_scale_factor)
        )

    def _sampling_defaults(self) -> SamplingDefaults:
        return FLUX_DEV if self._is_guidance_distilled else FLUX_SCHNELL

    def _encode(self, prompt: str) -> Conditioning:
        embeddings, pooled, _ = self._pipe.encode_prompt(
            prompt, device=self.device, max_sequence_length=self.max_length
        )
        read = self._pipe.maybe_convert_prompt(prompt, self._pipe.tokenizer_2)
        pieces, lost = token_words(self._pipe.tokenizer_2, read, read, start=0, max_length=self.max_length)
        return as_conditioning(prompt, embeddings, pieces, lost, pooled=pooled)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        assert conditioning.pooled is not None
        h, w = noisy.shape[2:]
        guidance = self._constant(torch.full, (len(noisy),), FITTING_GUIDANCE)
        output = self._pipe.transformer(
            hidden_states=packed(noisy).to(self.dtype),
            timestep=self._sigma(t),
            guidance=guidance if self._is_guidance_distilled else None,
            pooled_projections=conditioning.pooled.to(self.dtype),
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            txt_ids=self._constant(torch.zeros, conditioning.sequence_length, 3),
            img_ids=self._constant(places, h, w, 3),
            return_dict=False,
        )[0]
        return unpacked(output.float(), h, w)

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        if self._is_guidance_distilled:
            return self._all_put(alone(positive))
        return self._all_put(paired(positive, negatives))

    def _packed(self, latents: Tensor) -> Tensor:
        return packed(latents).to(self.dtype)

    def _guided(self, guidance_scale: float) -> Mapping[str, float]:
        return {"guidance_scale" if self._is_guidance_distilled else "true_cfg_scale": guidance_scale}
