"""Stable Diffusion 3 and 3.5: token embeddings of two CLIP encoders, then those of T5, and a pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.embeddings import paired
from hiper.backbones.flow import FlowBackbone
from hiper.backbones.matching import Layout
from hiper.backbones.sampling_defaults import SamplingDefaults, sd3_defaults
from hiper.backbones.words import as_conditioning, clip_words, spelled, token_words
from hiper.conditioning import Conditioning, expanded

T5_LENGTH = 256


@final
class Sd3Backbone(FlowBackbone):
    """A `diffusers.StableDiffusion3Pipeline`, with T5 or without it.

    The tail replaces the last token embeddings, T5's padding: nothing masks them. Where T5 was left out its embeddings
    are zeros, and embeddings that start alike stay alike; there they stand in front, which the transformer cannot tell
    since it gives text no places, and the tail replaces CLIP's padding.
    """

    pipeline_name: ClassVar[str] = "StableDiffusion3Pipeline"
    layout: ClassVar[Layout] = Layout(
        token_encoders=("text_encoder_3",),
        pooled=("text_encoder", "text_encoder_2"),
        optional=("text_encoder_3",),
    )
    wide_range: ClassVar[bool] = False  # its weights are published in float16

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
        self.family = "sd3"
        self._clip_length = int(pipe.tokenizer_max_length)
        self.max_length = self._clip_length + T5_LENGTH
        self.embed_dim = int(config.joint_attention_dim)
        self._set_native(int(config.in_channels), int(pipe.default_sample_size), int(pipe.vae_scale_factor))

    def _sampling_defaults(self) -> SamplingDefaults:
        return sd3_defaults(self.id, self._pipe.transformer.config)

    def _encode(self, prompt: str) -> Conditioning:
        embeddings, _, pooled, _ = self._pipe.encode_prompt(
            prompt,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=T5_LENGTH,
        )
        pieces, lost = self._pieces(prompt)
        if self._pipe.text_encoder_3 is None:
            embeddings = embeddings.roll(-self._clip_length, dims=1)
        return as_conditioning(prompt, embeddings, pieces, lost, pooled=pooled)

    def _pieces(self, prompt: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the tokens of both; a word is lost when neither has read it."""
        clip, unread = spelled(clip_words(self._pipe.tokenizer, prompt), self._clip_length)
        if self._pipe.text_encoder_3 is None:
            return (*[""] * T5_LENGTH, *clip), unread
        t5, lost = token_words(self._pipe.tokenizer_3, prompt, prompt, start=0, max_length=T5_LENGTH)
        return (*clip, *[""] * (self._clip_length - len(clip)), *t5), lost

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        assert conditioning.pooled is not None
        output: Tensor = self._pipe.transformer(
            hidden_states=noisy.to(self.dtype),
            timestep=self._sigma(t) * self.timesteps,
            encoder_hidden_states=conditioning.token_embeddings.to(self.dtype),
            pooled_projections=conditioning.pooled.to(self.dtype),
            return_dict=False,
        )[0]
        return output.float()

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        return self._all_put(paired(positive, negatives))
