"""Calls into diffusers and transformers, whose annotations a strict type checker does not accept.

The only file that may use `Any`-typed library objects without saying so at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import PIL.Image
import torch
import transformers
from torch import Tensor

from hiper.backbones.schedules import Epsilon, Flow, Schedule, Velocity
from hiper.errors import BackboneError

Pipeline = Any
"""A diffusers pipeline; its attributes are set at run time and carry no types."""

SCHEDULERS: dict[str, Callable[..., Any]] = {
    "ddim": diffusers.DDIMScheduler.from_config,
    "dpm++": diffusers.DPMSolverMultistepScheduler.from_config,
    "dpm++-karras": partial(diffusers.DPMSolverMultistepScheduler.from_config, use_karras_sigmas=True),
    "unipc": diffusers.UniPCMultistepScheduler.from_config,
    "unipc-karras": partial(diffusers.UniPCMultistepScheduler.from_config, use_karras_sigmas=True),
    "euler": diffusers.EulerDiscreteScheduler.from_config,
    "pndm": diffusers.PNDMScheduler.from_config,
    "flow-euler": diffusers.FlowMatchEulerDiscreteScheduler.from_config,
}
"""From the configuration of any scheduler; "karras": noise levels as in arXiv:2206.00364, eq. 5."""


def load_folder(folder: Path, pipeline: str, dtype: torch.dtype, variant: str | None) -> Pipeline:
    """Load a checked diffusers folder, from the disk only, safetensors only, without remote code.

    pipeline: diffusers' name of its class.
    """
    absent: dict[str, Any] = {}
    if pipeline == "StableDiffusionPipeline":
        absent["requires_safety_checker"] = False
        if not (folder / "safety_checker").is_dir():
            absent["safety_checker"] = None
    try:
        with quiet():
            return getattr(diffusers, pipeline).from_pretrained(
                str(folder),
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                **absent,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise BackboneError(f"{folder} cannot be loaded as a {pipeline}: {first_line(error)}") from error


def load_single_file(path: Path, config: Path, pipeline: str, dtype: torch.dtype) -> Pipeline:
    """Load one checkpoint file with the configuration in the folder `config`; nothing is fetched.

    pipeline: diffusers' name of its class.
    """
    try:
        with quiet():
            pipe = getattr(diffusers, pipeline).from_single_file(
                str(path), config=str(config), dtype=dtype, local_files_only=True
            )
    except NotImplementedError as error:  # a weight that was left without data is moved
        raise BackboneError(
            f"{path} is not a whole checkpoint: weights of the denoiser or the picture encoder are missing"
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise BackboneError(f"{path} cannot be loaded as a {pipeline}: {first_line(error)}") from error
    _check_whole(pipe, path)
    return pipe


def _check_whole(pipe: Pipeline, path: Path) -> None:
    """Refuse weights without data: diffusers overlooks what a file lacks of a text encoder."""
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            for weight, value in part.named_parameters():
                if value.is_meta:
                    raise BackboneError(f"{path} is not a whole checkpoint: {name} lacks {weight}")


def download(hub_id: str, revision: str) -> Path:
    """Bring the safetensors files of a Hub pipeline into the local cache; return their folder."""
    with quiet():
        folder = diffusers.DiffusionPipeline.download(hub_id, revision=revision, use_safetensors=True)
    return Path(folder)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def sampler(name: str, config: Any) -> Any:
    """Return the named scheduler with the model's own schedule."""
    with quiet():
        return SCHEDULERS[name](config)


def diffusion_schedule(pipe: Pipeline, name: str) -> Schedule:
    """Return what an epsilon or v model was trained with; BackboneError for another objective.

    Whatever sampler the folder ships: not every one of them knows the training targets.
    """
    with quiet():
        scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    known = {kind.objective: kind for kind in (Epsilon, Velocity)}
    objective = str(scheduler.config.prediction_type)
    if objective not in known:
        raise BackboneError(f"{name} predicts {objective!r}; allowed are {' and '.join(known)}")
    products = scheduler.alphas_cumprod.to(device_of(pipe))
    return known[objective](products**0.5, (1 - products) ** 0.5)


def flow_schedule(pipe: Pipeline) -> Schedule:
    """Return what a flow model was trained with."""
    return Flow(int(pipe.scheduler.config.num_train_timesteps), device_of(pipe))


def dtype_of(module: Any) -> torch.dtype:
    """Return the dtype of a component's weights."""
    dtype: torch.dtype = module.dtype
    return dtype


@contextmanager
def careful_vae(vae: Any) -> Iterator[Any]:
    """Yield the picture encoder, in float32 where its checkpoint says that half precision overflows."""
    if vae.dtype != torch.float16 or not vae.config.get("force_upcast"):
        yield vae
        return
    vae.to(torch.float32)
    try:
        yield vae
    finally:
        vae.to(torch.float16)


@contextmanager
def recomputing(denoiser: Any) -> Iterator[None]:
    """Let a denoiser compute activations anew on the way back instead of keeping them (arXiv:1604.06174)."""
    if denoiser.is_gradient_checkpointing:
        yield
        return
    denoiser.enable_gradient_checkpointing()
    try:
        yield
    finally:
        denoiser.disable_gradient_checkpointing()


def device_of(pipe: Pipeline) -> torch.device:
    """Return the device the pipeline computes on, also when its parts are offloaded elsewhere."""
    return torch.device(pipe._execution_device)  # noqa: SLF001


@contextmanager
def sampling(pipe: Pipeline, scheduler: str) -> Iterator[None]:
    """Lend the pipeline another scheduler and keep it quiet; on leaving it has its own again."""
    own, bars = pipe.scheduler, getattr(pipe, "_progress_bar_config", {})
    pipe.scheduler = sampler(scheduler, own.config)
    pipe.set_progress_bar_config(disable=True)
    try:
        with quiet():
            yield
    finally:
        pipe.scheduler = own
        pipe.set_progress_bar_config(**bars)


def to_pictures(pipe: Pipeline, batch: Tensor) -> list[PIL.Image.Image]:
    """Turn tensors [batch, 3, height, width] in [0, 1] into pictures exactly as the pipeline would itself."""
    pictures: list[PIL.Image.Image] = pipe.numpy_to_pil(pipe.image_processor.pt_to_numpy(batch))
    return pictures


@contextmanager
def quiet() -> Iterator[None]:
    """Silence log lines and progress bars of the libraries; what matters is raised or warned of by us."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
