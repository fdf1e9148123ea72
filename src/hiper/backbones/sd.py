"""Stable Diffusion 1.x and 2.x: epsilon or v prediction, one CLIP text encoder, any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, final

from torch import Tensor

from hiper.backbones import _diffusers, single_file
from hiper.backbones.embeddings import paired
from hiper.backbones.loading import Loading
from hiper.backbones.prediction import OPTION, assume_epsilon
from hiper.backbones.sampling_defaults import SD, SamplingDefaults
from hiper.backbones.single_file_parts import Header
from hiper.backbones.unet import UNetBackbone
from hiper.backbones.vocabulary import copy_vocabulary
from hiper.backbones.words import as_conditioning, clip_words, spelled
from hiper.conditioning import Conditioning
from hiper.errors import BackboneError

_FAMILIES = {768: "sd1", 1024: "sd2"}


@final
class SdBackbone(UNetBackbone):
    """A `diffusers.StableDiffusionPipeline`. The tail replaces padding, the last of 77 tokens, as in the paper."""

    pipeline_name: ClassVar[str] = "StableDiffusionPipeline"
    denoiser_name: ClassVar[str] = "unet"
    usual: ClassVar[SamplingDefaults] = SD

    def __init__(
        self,
        pipe: _diffusers.Pipeline,
        *,
        name: str,
        revision: str = "",
        default_guidance_scale: float | None = None,
    ) -> None:
        super().__init__(pipe, name=name, revision=revision, default_guidance_scale=default_guidance_scale)
        self.max_length = int(pipe.tokenizer.model_max_length)
        self.family = _FAMILIES.get(self.embed_dim, "sd")

    @classmethod
    def from_single_file(cls, path: Path, header: Header, *, how: Loading, network: bool) -> SdBackbone:
        """Load one .safetensors checkpoint; `network` allows to fetch the vocabulary, nothing else."""
        layout = single_file.describe(path, header, how.prediction_type)
        with TemporaryDirectory(prefix="hiper-config-") as name:
            config = Path(name)
            single_file.write_config(layout, config)
            copy_vocabulary(config / "tokenizer", network=network)
            components = {}
            if single_file.is_old(header):
                components["text_encoder"] = _diffusers.load_old_clip(
                    path,
                    config,
                    how.dtype,
                    prefix=single_file.OLD_CLIP_V1,
                    renamed=single_file.CLIP_V1,
                )
            loaded = _diffusers.load_single_file(path, config, cls.pipeline_name, how.dtype, **components)
        return cls._from_loaded(loaded, how, name=str(path), revision="", guidance_scale=None)

    @classmethod
    def _state_prediction(cls, pipe: _diffusers.Pipeline, name: str, stated: str | None) -> None:
        """SD 1 predicts the noise, which its folders often do not say; SD 2 comes in both kinds."""
        if _diffusers.state_prediction(pipe, name, stated).prediction is not None:
            return
        if _FAMILIES.get(int(pipe.unet.config.cross_attention_dim)) == "sd2":
            raise BackboneError(
                f"{name} is of SD 2.x, and scheduler/scheduler_config.json does not say what it predicts; state"
                f" {OPTION} v_prediction (models of 768 pixels) or epsilon (of 512)"
            )
        assume_epsilon(name)

    def _encode(self, prompt: str) -> Conditioning:
        embeddings, _ = self._pipe.encode_prompt(prompt, self.device, 1, False)
        converted = self._pipe.maybe_convert_prompt(prompt, self._pipe.tokenizer)
        pieces, lost = spelled(clip_words(self._pipe.tokenizer, converted), self.max_length)
        return as_conditioning(prompt, embeddings, pieces, lost)

    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        embeddings = conditioning.token_embeddings.expand(len(noisy), -1, -1)
        output: Tensor = self._pipe.unet(
            noisy.to(self.dtype),
            self._put(t),
            timestep_cond=self._guidance_condition(len(noisy)),
            encoder_hidden_states=embeddings.to(self.dtype),
            return_dict=False,
        )[0]
        return output.float()

    def pipeline_kwargs(self, positive: Conditioning, negatives: Sequence[Conditioning]) -> dict[str, Any]:
        return self._all_put(paired(positive, negatives))
