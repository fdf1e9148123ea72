"""Z-Image and Z-Image-Turbo: token embeddings of Qwen3, as many as the sentence has tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.flow import FlowBackbone
from hiper.backbones.matching import Layout
from hiper.backbones.sampling_defaults import SamplingDefaults, z_image_defaults
from hiper.backbones.words import as_conditioning, chat_words
from hiper.conditioning import Conditioning, expanded

NATIVE = 1024


@final
class ZImageBackbone(FlowBackbone):
    """A `diffusers.ZImagePipeline`.

    The tail is appended: there is no padding among the token embeddings, and the last ones are the chat template's. The
    transformer pads to multiples of 32 with an embedding of its own and puts the picture's places behind them, so a
    tail that crosses a multiple moves the picture's places by 32.
    """

    pipeline_name: ClassVar[str] = "ZImagePipeline"
    layout: ClassVar[Layout] = Layout(chat=True)
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
        self.family = "z-image"
        self.embed_dim = int(config.cap_feat_dim)
        factor = int(pipe.vae_scale_factor)
        self._set_native(int(config.in_channels), NATIVE // factor, factor)

    def _sampling_defaults(self) -> SamplingDefaults:
        return z_image_defaults(self._pipe.scheduler.config)

    def _encode(self, prompt: str) -> Conditioning:
        embeddings, _ = self._pipe.encode_prompt(
            prompt, self.device, do_classifier_free_guidance=False, max_sequence_length=self.max_length
        )
        pieces, lost = chat_words(
            self._pipe.tokenizer, prompt, max_length=self.max_length, enable_thinking=True
        )
        return as_conditioning(prompt, embeddings[0][None], pieces, lost)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        conditioning = expanded(conditioning, len(noisy))
        output = self._pipe.transformer(
            list(noisy.to(self.dtype)[:, :, None]),
            1 - self._sigma(t),  # its time runs from noise to picture, and so does what it predicts
            list(conditioning.token_embeddings.to(self.dtype)),
            return_dict=False,
        )[0]
        return -torch.stack(output)[:, :, 0].float()

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        batch = max(len(positive.token_embeddings), len(negatives))
        others = [
            embeddings
            for each in negatives
            for embeddings in expanded(each, batch if len(negatives) == 1 else 1).token_embeddings
        ]
        pair = {
            "prompt_embeds": list(expanded(positive, batch).token_embeddings),
            "negative_prompt_embeds": others,
        }
        return {
            name: [embeddings.to(self.device, self.dtype) for embeddings in side]
            for name, side in pair.items()
        }

    def _packed(self, latents: Tensor) -> Tensor:
        return latents  # the pipeline keeps them in float32

    def _guided(self, guidance_scale: float) -> Mapping[str, float]:
        # its scale counts from the sentence, not from the negative
        return {"guidance_scale": guidance_scale - 1}
