"""Stable Diffusion 1.x and 2.x: epsilon or v prediction, one CLIP text encoder, any size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import PIL.Image
import torch
from torch import Tensor, nn

from hiper import images
from hiper.backbones import _diffusers, single_file
from hiper.backbones.base import Backbone, Diffused, Samples, StepCallback
from hiper.backbones.parking import frozen, parked
from hiper.backbones.vocabulary import copy_vocabulary
from hiper.backbones.weights import check_weights, read_header
from hiper.conditioning import END_OF_SENTENCE, Conditioning
from hiper.errors import BackboneError, HiperError
from hiper.seeds import generator

FINGERPRINT = 256
_FAMILIES = {768: "sd1", 1024: "sd2"}
_OBJECTIVES = ("epsilon", "v_prediction")
_ALIGNMENT = 64  # bytes, what torch gives its own tensors on the CPU


@final
class SdBackbone(Backbone):
    """A `diffusers.StableDiffusionPipeline` behind the interface; the pipeline stays as it was given."""

    def __init__(
        self, pipe: _diffusers.Pipeline, *, name: str, revision: str = "", default_guidance: float = 7.5
    ) -> None:
        dtypes = {str(part.dtype) for part in (pipe.unet, pipe.text_encoder, pipe.vae)}
        if len(dtypes) > 1:
            raise BackboneError(
                f"{name} mixes {' and '.join(sorted(dtypes))}; load the pipeline with one dtype"
            )
        schedule, self.objective = _diffusers.training_schedule(pipe.scheduler.config)
        if self.objective not in _OBJECTIVES:
            raise BackboneError(
                f"{name} predicts {self.objective!r}; allowed are {' and '.join(_OBJECTIVES)}"
            )
        self._pipe = pipe
        self.id, self.revision, self.default_guidance = name, revision, default_guidance
        self.device = _diffusers.device_of(pipe)
        self.dtype = pipe.unet.dtype
        self._signal = (schedule**0.5).to(self.device)
        self._noise = ((1 - schedule) ** 0.5).to(self.device)
        self.timesteps = len(schedule)
        self.length = int(pipe.tokenizer.model_max_length)
        self.embed = int(pipe.unet.config.cross_attention_dim)
        self.family = _FAMILIES.get(self.embed, "sd")
        size = int(pipe.unet.config.sample_size)
        self.latent_shape = (int(pipe.unet.config.in_channels), size, size)
        self.resolution = size * int(pipe.vae_scale_factor)

    @classmethod
    def from_pipeline(cls, pipe: _diffusers.Pipeline) -> SdBackbone:
        """Wrap a user's own pipeline, on its device and in its dtype."""
        return cls(pipe, name=str(pipe.name_or_path or type(pipe).__name__))

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        name: str,
        revision: str,
        guidance: float,
        device: torch.device,
        dtype: torch.dtype,
    ) -> SdBackbone:
        """Load a diffusers folder; BackboneError names the file that is missing or damaged."""
        pipe = _diffusers.load_folder(folder, dtype, check_weights(folder))
        return cls(_placed(pipe, device), name=name, revision=revision, default_guidance=guidance)

    @classmethod
    def from_single_file(
        cls, path: Path, *, device: torch.device, dtype: torch.dtype, network: bool
    ) -> SdBackbone:
        """Load one .safetensors checkpoint; `network` allows to fetch the vocabulary, nothing else."""
        layout = single_file.describe(path, read_header(path))
        with TemporaryDirectory(prefix="hiper-config-") as name:
            config = Path(name)
            single_file.write_config(layout, config)
            copy_vocabulary(config / "tokenizer", network=network)
            pipe = _diffusers.load_single_file(path, config, dtype)
        return cls(_placed(pipe, device), name=str(path))

    def encode(self, prompt: str) -> Conditioning:
        with torch.no_grad(), _diffusers.quiet():
            rows, _ = self._pipe.encode_prompt(prompt, self.device, 1, False)
            groups = self._words(prompt)
        kept = self.length - 2
        spoken, lost = [], []
        for word, tokens in groups:
            spoken += [word] * tokens
            if len(spoken) > kept:
                lost.append(word)
        return Conditioning(
            rows=rows.float(),
            words=min(len(spoken), kept) + 2,
            prompt=prompt,
            pieces=("", *spoken[:kept], END_OF_SENTENCE),
            lost=tuple(lost),
        )

    def _words(self, prompt: str) -> list[tuple[str, int]]:
        """Split a sentence into its words, each with the number of tokens it takes."""
        tokenizer = self._pipe.tokenizer
        ids = tokenizer(
            self._pipe.maybe_convert_prompt(prompt, tokenizer), add_special_tokens=False
        ).input_ids
        words: list[tuple[str, int]] = []
        start = 0
        for end, token in enumerate(tokenizer.convert_ids_to_tokens(ids), start=1):
            if token.endswith("</w>") or end == len(ids):
                words.append((str(tokenizer.decode(ids[start:end])), end - start))
                start = end
        return words

    def latents(self, image: PIL.Image.Image, generator: torch.Generator) -> Tensor:
        pixels = images.to_tensor(image).to(self.device, self.dtype)
        with torch.no_grad():
            posterior = self._pipe.vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
        latents: Tensor = (posterior.mean.float() + posterior.std.float() * noise) * self._scale
        if not bool(latents.isfinite().all()):
            raise BackboneError(
                f"{self.id}: the picture encoder overflows in {self.dtype}; load with dtype=float32"
            )
        return latents

    def decode(self, latents: Tensor) -> list[PIL.Image.Image]:
        with torch.no_grad():
            pixels = self._pipe.vae.decode((latents / self._scale).to(self.device, self.dtype)).sample
        return images.to_images(pixels.float().clamp(-1, 1))

    @property
    def _scale(self) -> float:
        return float(self._pipe.vae.config.scaling_factor)

    def diffuse(self, latents: Tensor, noise: Tensor, t: Tensor) -> Diffused:
        """DDPM's forward process (arXiv:2006.11239, eq. 4); v as in arXiv:2202.00512, section 4."""
        noise, t = self._put(noise), self._put(t)
        signal, sigma = self._signal[t][:, None, None, None], self._noise[t][:, None, None, None]
        noisy = signal * latents + sigma * noise
        return Diffused(
            noisy=noisy,
            target=signal * noise - sigma * latents if self.objective == "v_prediction" else noise,
        )

    def predict(self, noisy: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        output: Tensor = self._pipe.unet(
            noisy.to(self.dtype), self._put(t), encoder_hidden_states=rows.to(self.dtype), return_dict=False
        )[0]
        return output.float()

    def _put(self, tensor: Tensor) -> Tensor:
        """Bring a CPU tensor to the device without waiting for the work queued there."""
        if self.device.type != "cuda" or tensor.device.type != "cpu":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def sample(
        self,
        positive: Tensor,
        negative: Tensor,
        *,
        seeds: Sequence[int],
        steps: int,
        guidance: float,
        scheduler: str,
        height: int,
        width: int,
        callback: StepCallback | None = None,
    ) -> Samples:
        factor = int(self._pipe.vae_scale_factor)
        shape = (1, self.latent_shape[0], height // factor, width // factor)
        noise = torch.cat([torch.randn(shape, generator=generator(seed)) for seed in seeds])
        with _diffusers.sampling(self._pipe, scheduler), torch.no_grad():
            output = self._pipe(
                prompt_embeds=positive.to(self.device, self.dtype).expand(len(seeds), -1, -1),
                negative_prompt_embeds=negative.to(self.device, self.dtype).expand(len(seeds), -1, -1),
                latents=noise.to(self.device, self.dtype),
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=height,
                width=width,
                output_type="pt",
                callback_on_step_end=_reporter(callback, steps),
            )
        if not bool(output.images.isfinite().all()):
            raise HiperError(f"{self.id} drew NaN or infinity in {self.dtype}; use dtype=bfloat16 or float32")
        flagged = output.nsfw_content_detected or [False] * len(seeds)
        return Samples(
            images=_diffusers.to_pictures(self._pipe, output.images),
            flagged=tuple(bool(flag) for flag in flagged),
        )

    @contextmanager
    def fitting(self) -> Iterator[None]:
        modules = self._modules()
        idle = [module for name, module in modules.items() if name != "unet"]
        with frozen(list(modules.values())), parked(idle, self.device):
            yield

    def _modules(self) -> dict[str, nn.Module]:
        parts = sorted(self._pipe.components.items())
        return {name: part for name, part in parts if isinstance(part, nn.Module)}

    def fingerprint(self) -> tuple[float, ...]:
        modules = self._modules()
        weights = [
            w.detach()
            for part in ("text_encoder", "unet")
            for _, w in sorted(modules[part].named_parameters())
        ]
        total = sum(weight.numel() for weight in weights)
        places = torch.arange(FINGERPRINT, dtype=torch.float64).mul(total / FINGERPRINT).long()
        picked, start = [], 0
        for weight in weights:
            inside = places[(places >= start) & (places < start + weight.numel())] - start
            if len(inside):
                picked.append(weight.reshape(-1)[inside.to(weight.device)].float().cpu())
            start += weight.numel()
        return tuple(float(f"{value:.6g}") for value in torch.cat(picked).tolist())

    def weights_sha256(self) -> str:
        digest = hashlib.sha256()
        for part, module in self._modules().items():
            for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
                digest.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _placed(pipe: _diffusers.Pipeline, device: torch.device) -> _diffusers.Pipeline:
    """Move to the device, and on the CPU out of the mapped file into memory of its own.

    Results depend on the alignment of the weights in their last bits, and parking and bringing back would
    change it: a resumed fit could not be bitwise the same.
    """
    pipe.to(device)
    for part in pipe.components.values():
        for weight in part.parameters() if isinstance(part, nn.Module) else ():
            if weight.data_ptr() % _ALIGNMENT:
                weight.data = weight.data.clone()
    return pipe


def _reporter(callback: StepCallback | None, steps: int) -> object:
    if callback is None:
        return None

    def report(pipe: object, index: int, t: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        callback(min(index + 1, steps), steps)  # pndm runs one more than asked for
        return tensors

    return report
