"""Qwen-Image: token embeddings of Qwen2.5-VL, as many as the sentence has tokens; a picture is a film of one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.embeddings import masked
from hiper.backbones.flow import FlowBackbone
from hiper.backbones.matching import Layout
from hiper.backbones.packing import PATCH, packed, unpacked
from hiper.backbones.sampling_defaults import QWEN_IMAGE, SamplingDefaults
from hiper.backbones.words import as_conditioning, token_words
from hiper.conditioning import Conditioning, expanded
from hiper.errors import BackboneError

NATIVE = 1328
"""Side in pixels of a square picture, by the card of Qwen/Qwen-Image; no configuration says it."""
NO_NEGATIVE = " "
"""What stands for no negative sentence, by the same card."""
LONGEST = 1024  # tokens that the pipeline takes; it cuts what is longer than max_sequence_length


@final
class QwenImageBackbone(FlowBackbone):
    """A `diffusers.QwenImagePipeline`.

    The tail is appended: padding is masked, and the last token embeddings are the template's. Text has places, so the
    tail stands where a longer sentence would continue.
    """

    pipeline_name: ClassVar[str] = "QwenImagePipeline"
    usual: ClassVar[SamplingDefaults] = QWEN_IMAGE
    layout: ClassVar[Layout] = Layout(patch=PATCH)
    placement = "append"
    max_length = 512

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
        if config.guidance_embeds:
            raise BackboneError(f"{name} is a distilled Qwen-Image; only the undistilled kind is supported")
        self.family = "qwen-image"
        self.embed_dim = int(config.joint_attention_dim)
        factor = int(pipe.vae_scale_factor)
        self._set_native(int(config.in_channels) // 4, NATIVE // factor, factor)

    def _encode(self, prompt: str) -> Conditioning:
        skipped = int(self._pipe.prompt_template_encode_start_idx)
        before, after = self._pipe.prompt_template_encode.split("{}")
        embeddings, _ = self._pipe.encode_prompt(prompt, self.device, max_sequence_length=self.max_length)
        pieces, lost = token_words(
            self._pipe.tokenizer,
            before + prompt + after,
            prompt,
            start=len(before),
            max_length=skipped + self.max_length,
        )
        kept = pieces[skipped:]
        return as_conditioning(prompt, embeddings, kept, lost)

    def _encode_negative(self, prompt: str) -> Conditioning:
        return replace(self._encode(prompt or NO_NEGATIVE), prompt=prompt)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        h, w = noisy.shape[2:]
        output = self._pipe.transformer(
            hidden_states=packed(noisy).to(self.dtype),
            timestep=self._sigma(t),
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, h // 2, w // 2)]] * len(noisy),
            return_dict=False,
        )[0]
        return unpacked(output.float(), h, w)

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        both = masked(positive, negatives, "prompt_embeds_mask")
        return {**self._all_put(both), "max_sequence_length": LONGEST}

    def _encoded(self, vae: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:
        return super()._encoded(vae, pixels[:, :, None], generator)[:, :, 0]

    def _decoded(self, vae: Any, latents: Tensor) -> Tensor:
        return super()._decoded(vae, latents[:, :, None])[:, :, 0]

    def _scaled(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return (latents - mean) / std

    def _unscaled(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return latents * std + mean

    def _statistics(self) -> tuple[Tensor, Tensor]:
        config = self._pipe.vae.config
        mean, std = (
            torch.tensor(each, device=self.device) for each in (config.latents_mean, config.latents_std)
        )
        return mean[:, None, None], std[:, None, None]

    def _packed(self, latents: Tensor) -> Tensor:
        return packed(latents).to(self.dtype)

    def _guided(self, guidance_scale: float) -> Mapping[str, float]:
        return {"true_cfg_scale": guidance_scale}
