"""Calls into diffusers and transformers, whose annotations a strict type checker does not accept.

The only file that may use `Any`-typed library objects without saying so at every call.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import numpy as np
import PIL.Image
import torch
import transformers
from accelerate.utils import align_module_device, has_offloaded_params
from diffusers.loaders import single_file_utils
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor

import hiper
from hiper.backbones.checks import Report, first, tell_unused
from hiper.backbones.prediction import OPTION, Statement, Target, agree
from hiper.backbones.sampling_defaults import (
    SD,
    SamplingDefaults,
    diffusion_defaults,
    named_few_step,
    note_few_step,
)
from hiper.backbones.schedules import Epsilon, Flow, Schedule, Velocity
from hiper.backbones.single_file_parts import UNET, VAE
from hiper.backbones.variants import WeightFiles
from hiper.errors import BackboneError, HiperWarning
from hiper.files import is_out_of_memory

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
    "lcm": diffusers.LCMScheduler.from_config,
    "flow-euler": diffusers.FlowMatchEulerDiscreteScheduler.from_config,
}
"""From the configuration of any scheduler; "karras": sigmas as in arXiv:2206.00364, eq. 5."""

_PACKAGE = Path(hiper.__file__).parent
_TELLING = {"scheduler": ("beta_start", "beta_end", "beta_schedule", "shift"), "vae": ("scaling_factor",)}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A pipeline, and by component what the libraries say of its loading (`output_loading_info`)."""

    pipe: Pipeline
    reports: Mapping[str, Report]


def pipeline_class(name: str) -> Any:
    """Return a class of diffusers by name; its import, which happens here, tells of packages that nobody needs."""
    with quiet():
        return getattr(diffusers, name)


def load_folder(
    folder: Path, index: Mapping[str, Any], weights: Mapping[str, WeightFiles], dtype: torch.dtype
) -> Loaded:
    """Load a diffusers folder, from the disk only, safetensors only, without remote code.

    Args:
        folder: The model's.
        index: Its model_index.json.
        weights: The files to load, by component.
        dtype: Of all weights.

    Raises:
        BackboneError: A library refuses it.
    """
    kind = pipeline_class(str(index["_class_name"]))
    known, parts, reports = signature(kind.__init__).parameters, {}, {}
    for name in sorted(weights.keys() & known.keys()):
        parts[name], reports[name] = _load_part(folder / name, index[name], weights[name].variant, dtype)
    if "safety_checker" in known:
        parts = {"safety_checker": None, "requires_safety_checker": False, **parts}
    with refusals(f"{folder} cannot be loaded as a {kind.__name__}"), quiet():
        pipe = kind.from_pretrained(str(folder), local_files_only=True, **parts)
    _tell_defaults(folder, pipe)
    return Loaded(pipe=pipe, reports=reports)


def _tell_defaults(folder: Path, pipe: Pipeline) -> None:
    """Warn of numbers that differ from model to model and are taken from diffusers, for the folder lacks them.

    The first folders of Stable Diffusion lack the vae's factor, which was 0.18215 for all, diffusers' own.
    """
    for component, names in _TELLING.items():
        config = getattr(pipe, component).config
        lacking = [name for name in names if name in config.get("_use_default_values", ())]
        if lacking and not (component == "vae" and isinstance(pipe, diffusers.StableDiffusionPipeline)):
            used = ", ".join(f"{name} {config[name]}" for name in lacking)
            warnings.warn(
                f"{folder / component} does not say {', '.join(lacking)}: diffusers' own are used ({used}); if the"
                " loss stays high or pictures look wrong, download its configuration again",
                HiperWarning,
                stacklevel=2,
            )


def _load_part(folder: Path, entry: Sequence[str], variant: str, dtype: torch.dtype) -> tuple[Any, Report]:
    library, name = entry
    with refusals(f"{folder} cannot be loaded as a {name}"), quiet():
        home = getattr(diffusers.pipelines, library, None) or import_module(library)
        loaded: tuple[Any, Report] = getattr(home, name).from_pretrained(
            str(folder),
            dtype=dtype,
            variant=variant or None,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are in the report, which says more than the refusal
            output_loading_info=True,
        )
    return loaded


def load_single_file(
    path: Path, config: Path, pipeline: str, dtype: torch.dtype, **components: Any
) -> Loaded:
    """Load one checkpoint file with a given configuration; nothing is fetched.

    Args:
        path: The checkpoint.
        config: The folder of the configuration.
        pipeline: diffusers' name of its class.
        dtype: Of the weights.
        **components: Those that are loaded already.
    """
    with refusals(f"{path} cannot be loaded as a {pipeline}"), quiet():
        try:
            pipe = getattr(diffusers, pipeline).from_single_file(
                str(path), config=str(config), dtype=dtype, local_files_only=True, **components
            )
        except NotImplementedError as error:  # a weight that was left without data is moved
            raise BackboneError(f"{path} is not a whole checkpoint: {_lacking(path, config)}") from error
    _tell_unused(path, pipe)
    return Loaded(pipe=pipe, reports={})


def _tell_unused(path: Path, pipe: Pipeline) -> None:
    """Warn of tensors that no component takes, but for averages and schedules, which a checkpoint carries along."""
    with safe_open(path, framework="pt") as file:
        names = sorted(file.keys())
    for component, prefix in (("unet", UNET), ("vae", VAE)):
        count = sum(name.startswith(prefix) for name in names) - len(getattr(pipe, component).state_dict())
        if count > 0:
            tell_unused(f"{path}: {component}", f"{count} tensors more than its layers")
    carried = (UNET, VAE, "cond_stage_model.", "conditioner.", "model_ema.", "denoiser.")
    if others := [name for name in names if "." in name and not name.startswith(carried)]:
        tell_unused(str(path), first(others))


def load_old_clip(path: Path, config: Path, dtype: torch.dtype, *, prefix: str, renamed: str) -> Any:
    """Load the text encoder of a checkpoint that names its tensors as transformers did before 4.1.

    Args:
        path: The checkpoint.
        config: The folder of the encoder's configuration.
        dtype: Of the weights.
        prefix: Of its tensors' names.
        renamed: The prefix that diffusers knows.
    """
    with safe_open(path, framework="pt") as file:
        tensors = {
            renamed + name.removeprefix(prefix): file.get_tensor(name)
            for name in file.keys()  # noqa: SIM118
            if name.startswith(prefix)
        }
    with refusals(f"the text encoder of {path} cannot be loaded"), quiet():
        return single_file_utils.create_diffusers_clip_model_from_ldm(
            transformers.CLIPTextModel,
            checkpoint=tensors,
            subfolder="text_encoder",
            config=str(config),
            torch_dtype=dtype,
            local_files_only=True,
        )


def _lacking(path: Path, config: Path) -> str:
    """Name the first weight that a file lacks of the denoiser, or of the picture encoder."""
    checkpoint = single_file_utils.load_single_file_checkpoint(str(path), local_files_only=True)
    for component, kind, convert in (
        ("unet", diffusers.UNet2DConditionModel, single_file_utils.convert_ldm_unet_checkpoint),
        ("vae", diffusers.AutoencoderKL, single_file_utils.convert_ldm_vae_checkpoint),
    ):
        settings = kind.load_config(str(config), subfolder=component)
        with accelerate.init_empty_weights():
            wanted = kind.from_config(settings).state_dict()
        there = convert(dict(checkpoint), config=settings)
        for name in wanted:
            if name not in there:
                return f"{component} lacks {name}"
    return "a weight is without data"


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turn every refusal of a library, whose call alone is in the block, into one line.

    Lack of memory is none, nor a mistake of ours.
    """
    try:
        yield
    except REFUSALS as error:
        if is_out_of_memory(error) or is_ours(error):
            raise
        raise BackboneError(f"{what}: {first_line(error)}") from error


REFUSALS = (
    *(OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError),
    *(SafetensorError, StrictDataclassError),
)
"""What the libraries raise for files that they do not understand."""


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised in hiper's own code, not in a library that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(_PACKAGE)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def sampler(name: str, config: Any) -> Any:
    """Return the named scheduler with the model's own schedule."""
    with quiet():
        return SCHEDULERS[name](config)


def state_prediction(pipe: Pipeline, model: str, given: str | None) -> Target:
    """Let a loaded pipeline predict what its folder and the user agree on.

    Args:
        pipe: Its scheduler is replaced where only the user says what the model predicts.
        model: Its name, for messages.
        given: The user's word; None for none.

    Raises:
        BackboneError: The folder says otherwise.
    """
    config = pipe.scheduler.config
    is_default = "prediction_type" in config.get("_use_default_values", ())
    target = agree(
        model,
        (
            Statement(source=OPTION, prediction=given),
            Statement(
                source="scheduler/scheduler_config.json",
                prediction=None if is_default else config.get("prediction_type"),
                zero_terminal=config.get("rescale_betas_zero_snr") is True,
            ),
        ),
    )
    if is_default and target.prediction is not None:
        with quiet():
            pipe.scheduler = type(pipe.scheduler).from_config(config, prediction_type=target.prediction)
    return target


def adopt_named_kind(pipe: Pipeline, name: str) -> None:
    """Give a model that its name alone says to be distilled to few steps the scheduler of its kind, with a note."""
    kind, config = named_few_step(name), pipe.scheduler.config
    is_known = diffusion_defaults_of(pipe, SD, pipe.unet.config) is not SD
    if kind is None or is_known or config.get("prediction_type") != "epsilon":
        return
    note_few_step(name)
    with quiet():
        if kind == "lcm":
            pipe.scheduler = diffusers.LCMScheduler.from_config(config)
        else:
            pipe.scheduler = type(pipe.scheduler).from_config(config, timestep_spacing="trailing")


def diffusion_defaults_of(pipe: Pipeline, usual: SamplingDefaults, denoiser: Any) -> SamplingDefaults:
    """Return what suits a model of noise or v; usual: its family."""
    return diffusion_defaults(usual, type(pipe.scheduler).__name__, pipe.scheduler.config, denoiser)


def diffusion_schedule(pipe: Pipeline, name: str) -> Schedule:
    """Return what an epsilon or v model was trained with, whatever sampler the folder ships.

    Not every sampler knows the training targets, so they are those of DDPM on the sampler's timesteps.

    Raises:
        BackboneError: The model has another objective, or other sigmas.
    """
    config = pipe.scheduler.config
    continuous = config.get("use_flow_sigmas") or config.get("timestep_type") == "continuous"
    if "beta_schedule" not in config or continuous:
        raise BackboneError(
            f"{name} has a {type(pipe.scheduler).__name__}, of a model trained on other sigmas (EDM, a flow);"
            " allowed are models trained on the levels of DDPM"
        )
    with quiet():
        scheduler = diffusers.DDPMScheduler.from_config(config)
    stated = Statement(
        source="its scheduler",
        prediction=str(scheduler.config.prediction_type),
        zero_terminal=bool(scheduler.config.rescale_betas_zero_snr),
    )
    kind = Velocity if agree(name, [stated]).prediction == Velocity.objective else Epsilon
    products = scheduler.alphas_cumprod.to(device_of(pipe))
    return kind(products**0.5, (1 - products) ** 0.5)


def flow_schedule(pipe: Pipeline, name: str) -> Schedule:
    """Return what a flow model was trained with.

    Raises:
        BackboneError: Its scheduler is of a model that was trained otherwise.
    """
    config = pipe.scheduler.config
    kind = type(pipe.scheduler).__name__
    if not (kind.startswith("FlowMatch") or config.get("prediction_type") == "flow_prediction"):
        raise BackboneError(
            f"{name} has a {kind}, of a model that is no flow; allowed are schedulers that are named FlowMatch..."
            " or predict flow_prediction"
        )
    return Flow(int(config.num_train_timesteps), device_of(pipe))


def dtype_of(module: Any) -> torch.dtype:
    """Return the dtype of a component's weights."""
    dtype: torch.dtype = module.dtype
    return dtype


def weights_of(module: Any) -> dict[str, Tensor]:
    """Return a component's weights by name, also those that accelerate keeps elsewhere until they are called."""
    found = {name: weight.detach() for name, weight in module.named_parameters()}
    for prefix, part in module.named_modules() if any(each.is_meta for each in found.values()) else ():
        if has_offloaded_params(part):
            with align_module_device(part, torch.device("cpu")):
                own = {name: weight.detach() for name, weight in part.named_parameters(recurse=False)}
            found.update({f"{prefix}.{name}" if prefix else name: weight for name, weight in own.items()})
            for tied in getattr(
                module, "all_tied_weights_keys", ()
            ):  # one weight under two names is two there
                found.pop(tied, None)
    return found


def load_autoencoder(folder: Path) -> Any:
    """Load a picture encoder alone, float32 on the CPU, without gradients."""
    with quiet():
        vae = diffusers.AutoencoderKL.from_pretrained(
            str(folder), use_safetensors=True, local_files_only=True
        )
    return vae.float().eval().requires_grad_(False)


@contextmanager
def careful_vae(vae: Any) -> Iterator[Any]:
    """Yield the picture encoder, in float32 where its checkpoint says that half precision overflows; one by one."""
    with _one_by_one(vae):
        if vae.dtype != torch.float16 or not vae.config.get("force_upcast"):
            yield vae
            return
        vae.to(torch.float32)
        try:
            yield vae
        finally:
            vae.to(torch.float16)


@contextmanager
def _one_by_one(vae: Any) -> Iterator[None]:
    """Have pictures encoded and decoded one by one: four at once take 12.5 GiB on SDXL, and no less time."""
    if getattr(vae, "use_slicing", True):  # already, or of a kind that cannot
        yield
        return
    vae.use_slicing = True
    try:
        yield
    finally:
        vae.use_slicing = False


@contextmanager
def _decoding_carefully(vae: Any) -> Iterator[None]:
    """Have a pipeline decode in float32 where its autoencoder overflows; most pipelines would not."""
    own, is_replaced = vae.decode, "decode" in vars(vae)

    def decode(latents: Tensor, *args: Any, **settings: Any) -> Any:
        with careful_vae(vae):
            return own(latents.to(vae.dtype), *args, **settings)

    vae.decode = decode
    try:
        yield
    finally:
        if is_replaced:
            vae.decode = own
        else:
            del vae.decode


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
    """Lend the pipeline another scheduler, keep it quiet, decode by `careful_vae`; on leaving it is as it was."""
    own, bars = pipe.scheduler, getattr(pipe, "_progress_bar_config", {})
    pipe.scheduler = sampler(scheduler, own.config)
    pipe.set_progress_bar_config(disable=True)
    try:
        with quiet(), _one_by_one(pipe.vae), _decoding_carefully(pipe.vae):
            yield
    finally:
        pipe.scheduler = own
        pipe.set_progress_bar_config(**bars)


def flagged(pipe: Pipeline, pictures: Sequence[PIL.Image.Image]) -> tuple[bool, ...]:
    """Return which pictures the pipeline's safety checker refuses; none without one."""
    if getattr(pipe, "safety_checker", None) is None:
        return (False,) * len(pictures)
    seen = pipe.feature_extractor(list(pictures), return_tensors="pt").pixel_values
    weight = next(pipe.safety_checker.parameters())
    _, found = pipe.safety_checker(
        images=np.stack([np.asarray(picture) for picture in pictures]),
        clip_input=seen.to(weight.device, weight.dtype),
    )
    return tuple(bool(each) for each in found)


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
