"""What the families with a UNet share: what they predict, and models distilled to few steps."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.base import UNET_SCHEDULERS
from hiper.backbones.pipeline import PipelineBackbone
from hiper.backbones.sampling_defaults import SamplingDefaults
from hiper.backbones.schedules import Schedule

LCM_FITTING_GUIDANCE = 3.0
"""The least guidance that an LCM was distilled for (arXiv:2310.04378, section 5: w = guidance - 1 from 2 to 14)."""


class UNetBackbone(PipelineBackbone):
    """A pipeline with a UNet. Subclasses are final.

    A latent consistency model was distilled to draw what another model draws under guidance, and takes the scale as an
    input. It is fitted at the least one that it knows: there its prediction is nearest to the noise itself.
    """

    denoiser_name: ClassVar[str] = "unet"
    capabilities = PipelineBackbone.capabilities | {"cross-attention"}

    def __init__(
        self,
        pipe: _diffusers.Pipeline,
        *,
        name: str,
        revision: str = "",
        default_guidance_scale: float | None = None,
    ) -> None:
        super().__init__(pipe, name=name, revision=revision, default_guidance_scale=default_guidance_scale)
        config = pipe.unet.config
        self._guidance_width = config.get("time_cond_proj_dim")
        self.uses_negative_prompt = self._guidance_width is None
        is_lcm = not self.uses_negative_prompt or type(pipe.scheduler).__name__ == "LCMScheduler"
        self.schedulers = ("lcm", *UNET_SCHEDULERS) if is_lcm else UNET_SCHEDULERS
        self.embed_dim = int(config.cross_attention_dim)
        size = int(config.sample_size)
        self.latent_shape = (int(config.in_channels), size, size)
        self.resolution = size * int(pipe.vae_scale_factor)

    def _sampling_defaults(self) -> SamplingDefaults:
        return _diffusers.diffusion_defaults_of(self._pipe, self.usual, self._pipe.unet.config)

    @classmethod
    def _adopt_named_kind(cls, pipe: _diffusers.Pipeline, name: str) -> None:
        _diffusers.adopt_named_kind(pipe, name)

    def _make_schedule(self) -> Schedule:
        return _diffusers.diffusion_schedule(self._pipe, self.id)

    def _guidance_condition(self, batch: int) -> Tensor | None:
        """Return the guidance embedding of an LCM in a fit, [batch, width]; None for other models."""
        if self._guidance_width is None:
            return None
        scale = torch.full((batch,), LCM_FITTING_GUIDANCE - 1)
        embedding: Tensor = self._pipe.get_guidance_scale_embedding(scale, embedding_dim=self._guidance_width)
        return self._put(embedding.to(self.dtype))
