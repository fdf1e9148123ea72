"""What the backbones of all families share: a diffusers pipeline behind the interface.

A family says how a sentence is encoded, how its denoiser is called and how its pipeline takes embeddings.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import PIL.Image
import torch
from torch import Tensor, nn

from hiper import images
from hiper.backbones import _attention, _diffusers, _lora, _relatives, _token_embeddings
from hiper.backbones.base import (
    AttentionCallback,
    Backbone,
    NoisySample,
    Samples,
    StepCallback,
    check_scheduler,
)
from hiper.backbones.checks import check_loaded
from hiper.backbones.contents import checksums, described_pipeline, hashes, picked, state_of
from hiper.backbones.kv_cache import texts_projected_once
from hiper.backbones.loading import Loading
from hiper.backbones.matching import Layout, check_components, check_sentence, check_tokenizers
from hiper.backbones.offloader import ModelOffloader
from hiper.backbones.offloading import UNIFIED_MEMORY, Entered, Offloaded, frozen
from hiper.backbones.prediction import assume_epsilon
from hiper.backbones.sampling_defaults import SamplingDefaults
from hiper.backbones.schedules import Schedule
from hiper.backbones.weights import check_weights, read_index, text_encoder_bytes
from hiper.conditioning import Conditioning, expanded
from hiper.errors import BackboneError, HiperError, HiperWarning, OptionError
from hiper.options import SamplingSettings, digest
from hiper.seeds import generator

FINGERPRINT = 256
CONSTANTS = 16
"""Tensors that are kept on the device because every step of a fit needs the same: masks, places, sizes."""


class PipelineBackbone(Backbone):
    """A diffusers pipeline, which is never changed. Subclasses are final and implement what is abstract here.

    `_constant(make, *arguments)` is `make(*arguments, device=self.device)`, kept for later steps: what is built on an
    accelerator at every step costs launches, and what is copied there makes the processor wait.

    Attributes:
        pipeline_name: diffusers' name of the pipeline's class.
        denoiser_name: The component that is called once per step.
        usual: Steps and guidance that suit most checkpoints of the family.
        layout: How the components fit together.
        wide_range: Trained in bfloat16, beyond whose range float16 overflows.
    """

    pipeline_name: ClassVar[str]
    denoiser_name: ClassVar[str] = "transformer"
    usual: ClassVar[SamplingDefaults]
    layout: ClassVar[Layout] = Layout()
    wide_range: ClassVar[bool] = False
    capabilities: frozenset[str] = frozenset(
        {"token_embeddings", "trajectory", "vocabulary", "weights", "lora"}
    )

    def __init__(
        self,
        pipe: _diffusers.Pipeline,
        *,
        name: str,
        revision: str = "",
        default_guidance_scale: float | None = None,
    ) -> None:
        self._pipe = pipe
        self._offloader: ModelOffloader | None = None
        self._gradient_checkpointing = False
        self._known: _Read | None = (
            None  # of a model that was loaded here; a user's own may change between two calls
        )
        self.id, self.revision = name, revision
        suited = self._sampling_defaults()
        self.default_guidance_scale = (
            suited.guidance_scale if default_guidance_scale is None else default_guidance_scale
        )
        self.default_num_inference_steps = suited.num_inference_steps
        self.device, self.dtype = _diffusers.device_of(pipe), _diffusers.dtype_of(self.denoiser)
        self._constant = lru_cache(CONSTANTS)(partial(_built, self.device))
        self._tokenizers: dict[
            tuple[str, int], object
        ] = {}  # those that know words with embeddings of their own
        self._schedule = self._make_schedule()
        self.objective, self.timesteps = self._schedule.objective, self._schedule.timesteps

    @classmethod
    def from_pipeline(cls, pipe: _diffusers.Pipeline) -> Self:
        """Wrap a user's own pipeline, on its device and in its dtype."""
        name = _name_of(pipe)
        check_components(pipe, cls.denoiser_name, cls.layout, name)
        backbone = cls(pipe, name=name)
        backbone._check_dtypes()
        backbone._check_resident()
        return backbone

    @classmethod
    def for_reading(cls, pipe: _diffusers.Pipeline, *, of: _diffusers.Pipeline) -> Self:
        """Wrap a pipeline for its token embeddings alone, whatever dtype and place its other parts have.

        Args:
            pipe: The family's own, built from the components of the user's.
            of: The user's pipeline.
        """
        _relatives.check_readers(pipe, cls.layout.optional)
        check_tokenizers(pipe, cls.layout, _name_of(of))
        return cls(pipe, name=_name_of(of))

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        name: str,
        revision: str,
        guidance_scale: float | None,
        how: Loading,
    ) -> Self:
        """Load a diffusers folder; BackboneError names the file that is missing or damaged."""
        how = how.resolved(text_encoder_bytes(folder))
        loaded = _diffusers.load_folder(folder, read_index(folder), check_weights(folder), how.dtype)
        return cls._from_loaded(loaded, how, name=name, revision=revision, guidance_scale=guidance_scale)

    @classmethod
    def _from_loaded(
        cls,
        loaded: _diffusers.Loaded,
        how: Loading,
        *,
        name: str,
        revision: str,
        guidance_scale: float | None,
    ) -> Self:
        """Check a pipeline that was just loaded, quantise it where asked to, and bring it to where it computes."""
        pipe = loaded.pipe
        if cls.wide_range and how.dtype == torch.float16:
            warnings.warn(
                f"{name} is of a family that is trained in bfloat16, and may overflow to NaN in float16;"
                " load it with dtype bfloat16 or float32",
                HiperWarning,
                stacklevel=5,
            )
        check_loaded(pipe, loaded.reports, denoiser=cls.denoiser_name, layout=cls.layout, name=name)
        cls._state_prediction(pipe, name, how.prediction_type)
        if how.quantise is not None:
            from hiper.backbones._bitsandbytes import quantise

            home = torch.device("cpu") if how.memory == "low" else how.device
            quantise(getattr(pipe, cls.denoiser_name), how.quantise, how.device, how.dtype, home)
        backbone = cls._resolved(pipe, how, name=name, revision=revision, guidance_scale=guidance_scale)
        if how.quantise is not None:
            backbone.quantised = how.quantise
            backbone.capabilities = backbone.capabilities - {"weights"}  # packed weights cannot be learnt
        return backbone

    @classmethod
    def _adopt_named_kind(cls, pipe: _diffusers.Pipeline, name: str) -> None:
        """Give a model that its name alone says to be distilled the scheduler of its kind; a flow has one kind."""

    @classmethod
    def _state_prediction(cls, pipe: _diffusers.Pipeline, name: str, stated: str | None) -> None:
        """Let the pipeline predict what its folder and the user agree on; BackboneError where they do not."""
        if _diffusers.state_prediction(pipe, name, stated).prediction is None:
            assume_epsilon(name, doubtful=True)

    @classmethod
    def _resolved(
        cls,
        pipe: _diffusers.Pipeline,
        how: Loading,
        *,
        name: str,
        revision: str,
        guidance_scale: float | None,
    ) -> Self:
        """Bring a pipeline that was just loaded to where it computes."""
        cls._adopt_named_kind(pipe, name)
        if how.memory != "low":
            backbone = cls(
                _placed(pipe, how.device), name=name, revision=revision, default_guidance_scale=guidance_scale
            )
            backbone._known = _Read(pipe, cls.denoiser_name)
            return backbone
        parts = _modules(_placed(pipe, torch.device("cpu")))
        read = _Read(pipe, cls.denoiser_name)
        if (
            how.device.type in UNIFIED_MEMORY
        ):  # what waits there is written to a file and cannot be read where it lies
            _ = read.contents, read.fingerprint
        offloader = ModelOffloader(parts, how.device)
        offloader.load_only([part for part in parts if not _encodes(part)])
        backbone = cls(pipe, name=name, revision=revision, default_guidance_scale=guidance_scale)
        backbone._offloader, backbone._gradient_checkpointing, backbone._known = (
            offloader,
            how.recompute,
            read,
        )
        return backbone

    def resize(self, resolution: int) -> None:
        if resolution < self.size_multiple or resolution % self.size_multiple:
            raise OptionError(
                f"resolution is {resolution}; allowed are multiples of {self.size_multiple} pixels for {self.id}"
            )
        self.native_resolution = self.native_resolution or self.resolution
        channels, native, _ = self.latent_shape
        side = resolution * native // self.resolution
        self.latent_shape, self.resolution = (channels, side, side), resolution

    def _sampling_defaults(self) -> SamplingDefaults:
        """Return the steps and guidance that suit this checkpoint."""
        return self.usual

    @abstractmethod
    def _make_schedule(self) -> Schedule:
        """Return the schedule that the model was trained with."""

    def _check_dtypes(self) -> None:
        parts = {name: part for name, part in self._modules().items() if name != "safety_checker"}
        dtypes = {str(_diffusers.dtype_of(part)) for part in parts.values()}
        if len(dtypes) > 1:
            raise BackboneError(
                f"{self.id} mixes {' and '.join(sorted(dtypes))}; load the pipeline with one dtype"
            )

    def _check_resident(self) -> None:
        for name, part in self._modules().items():
            if any(weight.is_meta for weight in part.parameters()):
                raise BackboneError(
                    f"{self.id}: the weights of {name} are in memory only while they compute"
                    " (enable_sequential_cpu_offload); nothing can be learnt through them. Load the model by"
                    " hiper.load_backbone with memory=low, or use enable_model_cpu_offload"
                )

    @property
    def denoiser(self) -> nn.Module:
        self._load_only(encoders=False)
        part: nn.Module = getattr(self._pipe, self.denoiser_name)
        return part

    @property
    def takes_turns(self) -> bool:
        return self._offloader is not None

    def _load_only(self, *, encoders: bool) -> None:
        """Have the text encoders in memory, or all the rest; both where there is room."""
        if self._offloader is not None:
            self._offloader.load_only([part for part in self._modules() if _encodes(part) == encoders])

    def encode(self, prompt: str) -> Conditioning:
        check_sentence(self._pipe, self.layout, self.id, prompt)
        self._load_only(encoders=True)
        with torch.no_grad(), _diffusers.quiet():
            return self._encode(prompt)

    def encode_negative(self, prompt: str) -> Conditioning:
        check_sentence(self._pipe, self.layout, self.id, prompt)
        self._load_only(encoders=True)
        with torch.no_grad(), _diffusers.quiet():
            return self._encode_negative(prompt)

    def _encode_negative(self, prompt: str) -> Conditioning:
        """See `encode_negative`; most families make no difference."""
        return self._encode(prompt)

    @abstractmethod
    def _encode(self, prompt: str) -> Conditioning:
        """See `encode`; here a gradient may flow to what the text encoders look up."""

    def adapter(self, rank: int) -> AbstractContextManager[dict[str, Tensor]]:
        return _lora.adapter(self.denoiser, rank)

    def token_embeddings(self, word: str) -> dict[str, Tensor]:
        self._load_only(encoders=True)
        return _token_embeddings.vectors_of(self._pipe, word)

    def encode_with_token_embeddings(
        self, prompt: str, word: str, vectors: Mapping[str, Tensor]
    ) -> Conditioning:
        self._load_only(encoders=True)
        count = len(next(iter(vectors.values())))
        names = _token_embeddings.stand_ins(count)
        for name in _token_embeddings.encoders(self._pipe).values():
            if (name, count) not in self._tokenizers:
                self._tokenizers[name, count] = _token_embeddings.extended(getattr(self._pipe, name), count)
        tokenizers = {name: larger for (name, size), larger in self._tokenizers.items() if size == count}
        with (
            _token_embeddings.encode_with_token_embeddings(self._pipe, tokenizers, vectors),
            _diffusers.quiet(),
        ):
            conditioning = self._encode(prompt.replace(word, " ".join(names)))
        words = tuple(word if piece in names else piece for piece in conditioning.words_per_token)
        return replace(conditioning, prompt=prompt, words_per_token=words)

    def predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self._load_only(encoders=False)
        return self._predict(noisy, t, conditioning)

    @abstractmethod
    def _predict(self, noisy: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """See `predict`."""

    def latents(self, image: PIL.Image.Image, generator: torch.Generator) -> Tensor:
        self._load_only(encoders=False)
        with torch.no_grad(), _diffusers.careful_vae(self._pipe.vae) as vae:
            pixels = images.to_tensor(image).to(self.device, vae.dtype)
            latents = self._scaled(self._encoded(vae, pixels, generator))
        if not bool(latents.isfinite().all()):
            raise BackboneError(
                f"{self.id}: the picture encoder overflows in {self.dtype}; load with dtype=float32"
            )
        return latents

    def decode(self, latents: Tensor) -> list[PIL.Image.Image]:
        self._load_only(encoders=False)
        with torch.no_grad(), _diffusers.careful_vae(self._pipe.vae) as vae:
            pixels = self._decoded(vae, self._unscaled(latents).to(self.device, vae.dtype))
        return images.to_images(pixels.float().clamp(-1, 1))

    def decode_samples(self, latents: Tensor) -> Samples:
        images = self.decode(latents)
        flagged = _diffusers.flagged(self._pipe, images)
        black = [
            PIL.Image.new("RGB", image.size) if flag else image
            for image, flag in zip(images, flagged, strict=True)
        ]
        return Samples(images=black, flagged=flagged)

    def _encoded(self, vae: Any, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from the picture encoder's posterior, [1, c, h, w], float32, before any scaling."""
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(self.device)
        latents: Tensor = posterior.mean.float() + posterior.std.float() * noise
        return latents

    def _decoded(self, vae: Any, latents: Tensor) -> Tensor:
        """Return the pixels of unscaled latents [batch, c, h, w]: [batch, 3, height, width]."""
        pixels: Tensor = vae.decode(latents).sample
        return pixels

    def _scaled(self, latents: Tensor) -> Tensor:
        """Bring what the encoder yields [batch, c, h, w] to the denoiser's scale."""
        config = self._pipe.vae.config
        return (latents - float(config.get("shift_factor") or 0)) * float(config.scaling_factor)

    def _unscaled(self, latents: Tensor) -> Tensor:
        config = self._pipe.vae.config
        return latents / float(config.scaling_factor) + float(config.get("shift_factor") or 0)

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> NoisySample:
        return self._schedule.add_noise(latents, self._put(noise), self._put(t))

    def step(self, noisy: Tensor, predicted: Tensor, t: int, to: int) -> Tensor:
        return self._schedule.step(noisy, predicted, t, to)

    def signal_and_sigma(self, t: int) -> tuple[float, float]:
        return self._schedule.shares[t]

    def _put(self, tensor: Tensor) -> Tensor:
        """Bring a CPU tensor to the device without waiting for the work queued there."""
        if self.device.type != "cuda" or tensor.device.type != "cpu":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def sample(
        self,
        positive: Conditioning,
        negatives: Sequence[Conditioning],
        settings: SamplingSettings,
        *,
        seeds: Sequence[int],
        callback: StepCallback | None = None,
    ) -> Samples:
        check_scheduler(settings.scheduler, self.schedulers)
        self._load_only(encoders=False)
        noise = self._initial_noise(seeds, settings.height, settings.width).to(self.device)
        with _diffusers.sampling(self._pipe, settings.scheduler), torch.no_grad(), self._kv_cached():
            output = self._pipe(
                **self.pipeline_kwargs(expanded(positive, len(seeds)), negatives),
                **self._guided(settings.guidance_scale),
                latents=self._packed(noise),
                num_inference_steps=settings.num_inference_steps,
                height=settings.height,
                width=settings.width,
                output_type="pt",
                **self._randomness(settings.scheduler, seeds),
                **self._reporting(callback, settings.num_inference_steps),
            )
        if not bool(output.images.isfinite().all()):
            raise HiperError(f"{self.id} drew NaN or infinity in {self.dtype}; use dtype=bfloat16 or float32")
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * len(seeds)
        return Samples(
            images=_diffusers.to_pictures(self._pipe, output.images),
            flagged=tuple(bool(flag) for flag in flagged),
        )

    def _kv_cached(self) -> AbstractContextManager[None]:
        """Project text once per drawing where that keeps the picture and there is room for what is kept."""
        if "cross-attention" not in self.capabilities or self._offloader is not None:
            return nullcontext()
        return texts_projected_once(self.denoiser)

    def _initial_noise(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Draw [batch, c, h, w] on the CPU, one generator per picture."""
        channels, native, _ = self.latent_shape
        factor = self.resolution // native
        shape = (1, channels, height // factor, width // factor)
        return torch.cat([torch.randn(shape, generator=generator(seed)) for seed in seeds])

    def _packed(self, latents: Tensor) -> Tensor:
        """Bring float32 latents [batch, c, h, w] to the shape and dtype that the pipeline takes."""
        return latents.to(self.dtype)

    def _all_put(self, embeddings: Mapping[str, Tensor]) -> dict[str, Any]:
        """Bring embeddings and masks to the device, what is a fraction to the model's dtype."""
        return {
            name: tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in embeddings.items()
        }

    def _randomness(self, scheduler: str, seeds: Sequence[int]) -> dict[str, Any]:
        """Return what a sampler that adds noise at every step draws it from: one generator per picture."""
        return {"generator": [generator(seed) for seed in seeds]} if scheduler == "lcm" else {}

    def _guided(self, guidance_scale: float) -> Mapping[str, float]:
        """Return the pipeline's own words for a guidance scale."""
        return {"guidance_scale": guidance_scale}

    def _reporting(self, callback: StepCallback | None, steps: int) -> dict[str, object]:
        """Return the pipeline's own words for a function that is called after every step."""
        return {"callback_on_step_end": _reporter(callback, steps)}

    def training_mode(self, *, texts: bool = False, weights: bool = False) -> AbstractContextManager[None]:
        return Entered(partial(self._enter_training_mode, texts, weights))

    def _enter_training_mode(self, texts: bool, weights: bool, stack: ExitStack) -> None:
        if texts and self._offloader is not None:
            raise OptionError(
                f"{self.id} was loaded with memory=low, which keeps text encoders and denoiser apart, and this"
                " method learns through both; load it with memory=balanced"
            )
        self._load_only(encoders=False)
        modules = self._modules()
        needed = {name for name in modules if name == self.denoiser_name or (texts and _encodes(name))}
        away = needed.union(self._offloader.away if self._offloader else ())
        idle = [module for name, module in modules.items() if name not in away]
        stack.enter_context(frozen(list(modules.values())))
        stack.enter_context(Offloaded(idle, self.device))
        if self._gradient_checkpointing and not weights:
            stack.enter_context(_diffusers.recomputing(self.denoiser))

    def capture_attention(self, callback: AttentionCallback) -> AbstractContextManager[None]:
        if "cross-attention" not in self.capabilities:
            return super().capture_attention(callback)
        return _attention.captured(self.denoiser, callback)

    def _modules(self) -> dict[str, nn.Module]:
        return _modules(self._pipe)

    def fingerprint(self) -> tuple[float, ...]:
        if self._known is not None and self._known.is_current():
            return self._known.fingerprint
        return _fingerprint(self._modules(), self.denoiser_name)

    def contents(self) -> dict[str, str]:
        if self._known is not None and self._known.is_current():
            return self._known.contents
        return _contents(self._pipe)

    def weight_bytes(self) -> dict[str, int]:
        sizes = {}
        for part, module in self._modules().items():
            self._load_only(encoders=_encodes(part))
            sizes[part] = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        return sizes

    def weights_sha256(self) -> str:
        found: dict[str, dict[str, int]] = {}
        for part, module in self._modules().items():
            self._load_only(encoders=_encodes(part))
            found |= checksums({part: module})
        return digest(found)


class _Read:
    """What was read of a model that was loaded here, once: again only when a tensor has been written to since."""

    def __init__(self, pipe: _diffusers.Pipeline, denoiser: str) -> None:
        self._pipe, self._denoiser = pipe, denoiser
        self._states = _states(pipe)

    def is_current(self) -> bool:
        return self._states == _states(self._pipe)

    @cached_property
    def contents(self) -> dict[str, str]:
        return _contents(self._pipe)

    @cached_property
    def fingerprint(self) -> tuple[float, ...]:
        return _fingerprint(_modules(self._pipe), self._denoiser)


def _states(pipe: _diffusers.Pipeline) -> dict[str, object]:
    return {name: state_of(module) for name, module in _modules(pipe).items()}


def _contents(pipe: _diffusers.Pipeline) -> dict[str, str]:
    own = digest({"pipeline": described_pipeline(pipe)})
    return {"pipeline": own, **hashes(dict(sorted(pipe.components.items())))}


def _fingerprint(modules: Mapping[str, nn.Module], denoiser: str) -> tuple[float, ...]:
    parts = (modules[name] for name in (*filter(_encodes, modules), denoiser))
    weights = [weight for part in parts for _, weight in sorted(_diffusers.weights_of(part).items())]
    return picked(weights, FINGERPRINT)


def _modules(pipe: _diffusers.Pipeline) -> dict[str, nn.Module]:
    parts = sorted(pipe.components.items())
    return {name: part for name, part in parts if isinstance(part, nn.Module)}


def _built(
    device: torch.device, make: Callable[..., Tensor], *arguments: object, **settings: object
) -> Tensor:
    """Return what `make` builds on the device, fit for autograd wherever it is first asked for."""
    with torch.inference_mode(False):
        return make(*arguments, **settings, device=device)


def _name_of(pipe: _diffusers.Pipeline) -> str:
    return str(pipe.name_or_path or type(pipe).__name__)


def _encodes(part: str) -> bool:
    """Tell the text encoders, which work once per sentence, from the rest."""
    return part.startswith("text_encoder")


def _placed(pipe: _diffusers.Pipeline, device: torch.device) -> _diffusers.Pipeline:
    """Move to the device, and on the CPU out of the mapped file into memory of its own.

    Whoever writes to that file would change a running job's weights, or kill it by cutting the file short. And
    results depend on the alignment of the weights in their last bits, which offloading and bringing back would
    change: a resumed fit could not be bitwise the same.
    """
    pipe.to(device)
    for part in pipe.components.values():
        for weight in part.parameters() if isinstance(part, nn.Module) else ():
            # packed ones, of other types, are in memory of their own already
            if weight.device.type == "cpu" and type(weight) is nn.Parameter:
                weight.data = weight.data.clone()
    return pipe


def _reporter(callback: StepCallback | None, steps: int) -> object:
    if callback is None:
        return None

    def report(pipe: object, index: int, t: object, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        callback(min(index + 1, steps), steps)  # pndm runs one more than asked for
        return tensors

    return report
