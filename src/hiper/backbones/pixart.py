"""PixArt-Sigma: token embeddings of T5 under a mask, noise prediction by a transformer that also guesses a variance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.base import Scheduler, StepCallback
from hiper.backbones.embeddings import masked
from hiper.backbones.pipeline import PipelineBackbone
from hiper.backbones.sampling_defaults import PIXART, SamplingDefaults
from hiper.backbones.schedules import Schedule
from hiper.backbones.words import as_conditioning, token_words
from hiper.conditioning import Conditioning, expanded


@final
class PixArtBackbone(PipelineBackbone):
    """A `diffusers.PixArtSigmaPipeline`. The tail is appended: padding is masked, so there is none to replace."""

    pipeline_name: ClassVar[str] = "PixArtSigmaPipeline"
    usual: ClassVar[SamplingDefaults] = PIXART
    schedulers: tuple[Scheduler, ...] = ("dpm++", "ddim", "dpm++-karras", "unipc", "unipc-karras", "euler")
    placement = "append"
    capabilities = PipelineBackbone.capabilities - {"lora"}  # diffusers gives this transformer no adapters
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
        self.family = "pixart-sigma"
        self.embed_dim = int(config.caption_channels)
        side, factor = int(config.sample_size), int(pipe.vae_scale_factor)
        self.latent_shape = (int(config.in_channels), side, side)
        self.resolution, self.size_multiple = side * factor, int(config.patch_size) * factor

    def _sampling_defaults(self) -> SamplingDefaults:
        return _diffusers.diffusion_defaults_of(self._pipe, self.usual, self._pipe.transformer.config)

    def _make_schedule(self) -> Schedule:
        return _diffusers.diffusion_schedule(self._pipe, self.id)

    def _encode(self, prompt: str) -> Conditioning:
        embeddings, mask, _, _ = self._pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self.max_length
        )
        read = prompt.lower().strip()  # as the pipeline does
        pieces, lost = token_words(self._pipe.tokenizer, read, read, start=0, max_length=self.max_length)
        return as_conditioning(prompt, embeddings[mask.bool()][None], pieces, lost)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        output: Tensor = self._pipe.transformer(
            noisy.to(self.dtype),
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            encoder_attention_mask=self._constant(
                torch.ones, conditioning.token_embeddings.shape[:2], dtype=torch.long
            ),
            timestep=self._put(t),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return output[:, : noisy.shape[1]].float()  # the rest is the variance

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        return {
            **self._all_put(masked(positive, negatives)),
            "negative_prompt": None,
            "use_resolution_binning": False,
        }

    def _reporting(self, callback: StepCallback | None, steps: int) -> dict[str, object]:
        if callback is None:
            return {}
        return {"callback": lambda index, t, latents: callback(index + 1, steps)}
