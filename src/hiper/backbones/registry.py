"""The backbones: tables of names to lazy imports, plus the entry points of the group "hiper.backbones"."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiper.errors import BackboneError, HiperWarning, OptionError
from hiper.files import loading_in_memory
from hiper.options import check_choice, suggestion

if TYPE_CHECKING:
    import torch

    from hiper.backbones.base import Backbone, Scheduler
    from hiper.backbones.loading import Loading

# diffusers imports it wherever it is installed, and at that it warns of kernels that nobody has asked for
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

GROUP = "hiper.backbones"
PIPELINES = {
    "StableDiffusionPipeline": "hiper.backbones.sd:SdBackbone",
    "StableDiffusionXLPipeline": "hiper.backbones.sdxl:SdxlBackbone",
    "FluxPipeline": "hiper.backbones.flux:FluxBackbone",
    "ZImagePipeline": "hiper.backbones.z_image:ZImageBackbone",
    "QwenImagePipeline": "hiper.backbones.qwen_image:QwenImageBackbone",
    "Flux2KleinPipeline": "hiper.backbones.flux2_klein:KleinBackbone",
    "StableDiffusion3Pipeline": "hiper.backbones.sd3:Sd3Backbone",
    "PixArtSigmaPipeline": "hiper.backbones.pixart:PixArtBackbone",
    "SanaPipeline": "hiper.backbones.sana:SanaBackbone",
    "Lumina2Pipeline": "hiper.backbones.lumina2:Lumina2Backbone",
}
"""diffusers' name of a pipeline -> the backbone that wraps it."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A model that the package carries: its folder inside the package, and what suits it when drawing."""

    folder: str
    guidance_scale: float
    scheduler: Scheduler
    num_inference_steps: int


EMBEDDED = {
    "critters": Embedded(
        folder="critters/weights", guidance_scale=3.5, scheduler="unipc-karras", num_inference_steps=15
    )
}


def embedded_folder(name: str) -> Path:
    """Return where an embedded model is installed."""
    return Path(str(files("hiper"))) / EMBEDDED[name].folder


def load_backbone(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    local_only: bool | None = None,
    revision: str | None = None,
    quantise: str | None = None,
    memory: str = "auto",
    resolution: int | None = None,
    prediction_type: str | None = None,
) -> Backbone:
    """Load a model. Remote code is never run, pickles are never read.

    Args:
        name_or_path: The embedded "critters", a diffusers folder, one .safetensors file, or a Hub id.
        device: cpu, cuda or mps; None takes the fastest there is.
        dtype: float32, bfloat16 or float16; None takes bfloat16 on cuda (float16 where it is not supported) and on mps
            (float32 before macOS 14), float32 on the CPU.
        local_only: True never uses the network, None only for a Hub id, False also for the vocabulary that a single
            file lacks.
        revision: Branch, tag or commit of a Hub id.
        quantise: "nf4" or "int8", the denoiser's weights in 4 or 8 bits by bitsandbytes; not for a single file.
        memory: "low" lets text encoders and denoiser take turns on the device; what waits is in the CPU's memory, or,
            where the model computes on the CPU, in an unnamed file. It costs a transfer per fit and per edit, and a fit
            computes activations twice instead of keeping them. "balanced" keeps all on the device; "auto" lets them
            take turns where the text encoders are large (see `Loading`). What is learnt and drawn is the same, bit
            for bit.
        resolution: Side in pixels of the pictures that are fitted and drawn; None takes the checkpoint's own.
        prediction_type: "epsilon" or "v_prediction", for a diffusion model whose files do not say it; files that say
            otherwise are refused.

    Raises:
        BackboneError: The model cannot be found or used.
        MemoryLimitError: There is too little memory for it.
    """
    from hiper.backbones.loading import Loading

    place = resolve_device(device)
    how = Loading(
        device=place,
        dtype=resolve_dtype(dtype, place),
        quantise=quantise,
        memory=memory,
        recompute=memory == "low",
        prediction_type=prediction_type,
    )
    with loading_in_memory(str(name_or_path)):
        backbone = _found(str(name_or_path), how, revision, local_only)
    if resolution is not None:
        backbone.resize(resolution)
        note = backbone.size_note(resolution, resolution)
        if note is not None:
            warnings.warn(note, HiperWarning, stacklevel=2)
    return backbone


def _found(name: str, how: Loading, revision: str | None, local_only: bool | None) -> Backbone:
    path = Path(name).expanduser()
    if name in EMBEDDED:
        own = EMBEDDED[name]
        backbone = _from_folder(embedded_folder(name), name, "", own.guidance_scale, how)
        others = (each for each in backbone.schedulers if each != own.scheduler)
        backbone.schedulers = (own.scheduler, *others)
        backbone.default_num_inference_steps = own.num_inference_steps
        return backbone
    if path.is_dir():
        return _from_folder(path, name, "", None, how)
    if path.is_file():
        return _from_file(path, how, network=local_only is False)
    _check_hub_id(name, path)
    return _from_hub(name, revision, how, local_only=bool(local_only))


def wrap(pipe: Any) -> Backbone:
    """Wrap a user's own diffusers pipeline, to fit and to draw with.

    Args:
        pipe: Of one of the classes in `pipeline_names`, or of a subclass.

    Raises:
        BackboneError: It is of another class, or its parts are not all there.
    """
    from hiper.backbones import _relatives

    name = _relatives.own_class(pipe, pipeline_names()) or type(pipe).__name__
    backbone: Backbone = backbone_class(name, "the pipeline").from_pipeline(pipe)
    return backbone


def wrap_reader(pipe: Any) -> Backbone:
    """Wrap a user's own diffusers pipeline to encode alone (`Backbone.encode`, `Backbone.pipeline_kwargs`).

    Args:
        pipe: As for `wrap`, or one that reads sentences as these do: ControlNet, img2img, inpainting and the like.
            Parts that read no text may be missing, offloaded or of other dtypes.

    Raises:
        BackboneError: It reads sentences in another way, or lacks a text encoder.
    """
    from hiper.backbones import _relatives

    names = pipeline_names()
    own = _relatives.own_class(pipe, names)
    related = (
        own or (hasattr(pipe, "components") and _relatives.related_class(pipe, names)) or type(pipe).__name__
    )
    kind = backbone_class(related, "the pipeline")
    if not hasattr(kind, "for_reading"):
        return kind.from_pipeline(pipe)  # type: ignore[no-any-return]  # of a plugin
    backbone: Backbone = kind.for_reading(pipe if own else _relatives.as_class(pipe, related), of=pipe)
    return backbone


def pipeline_names() -> list[str]:
    """Return diffusers' names of all pipelines that are supported, in alphabetical order."""
    return sorted({*PIPELINES, *(entry.name for entry in entry_points(group=GROUP))})


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the fastest; the CPU, with a warning, for one that is not there."""
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device is None:
        return torch.device(next(kind for kind, there in present.items() if there))
    kind, _, number = str(device).partition(":")
    if kind not in present or not (number == "" or number.isdecimal()):
        raise OptionError(f"device is {str(device)!r}; allowed are cpu, cuda, cuda:N and mps")
    if not present[kind]:
        warnings.warn(f"no {kind} device is usable here; the CPU is used", HiperWarning, stacklevel=3)
        return torch.device("cpu")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device is {str(device)!r}; allowed are cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    return torch.device(device)


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype asked for, or the one `load_backbone` names; warns of float16 on the CPU."""
    import torch

    if dtype is None:
        if device.type == "mps":  # float16 has bfloat16's size, but autoencoders overflow in it
            return torch.bfloat16 if torch.backends.mps.is_macos_or_newer(14, 0) else torch.float32
        if device.type != "cuda":
            return torch.float32
        built_in = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if built_in else torch.float16
    name = str(dtype).removeprefix("torch.")
    check_choice("dtype", name, DTYPES)
    if name == "float16" and device.type == "cpu":
        warnings.warn("float16 is slow and coarse on the CPU; float32 suits it", HiperWarning, stacklevel=3)
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def backbone_class(pipeline: str, what: str) -> Any:
    """Return the class for a pipeline; BackboneError, which names `what` was loaded, where there is none."""
    if pipeline in PIPELINES:
        module, _, attribute = PIPELINES[pipeline].partition(":")
        return getattr(import_module(module), attribute)
    for entry in entry_points(group=GROUP, name=pipeline):
        return entry.load()
    raise BackboneError(f"{what} is a {pipeline}; supported are {', '.join(pipeline_names())}")


def _from_folder(
    folder: Path, name: str, revision: str, guidance_scale: float | None, how: Loading
) -> Backbone:
    from hiper.backbones.tail_encoder import FILE, TailEncoder
    from hiper.backbones.weights import check_components, read_index

    if not folder.is_dir():
        raise BackboneError(
            f"the model {name} is not part of this installation ({folder} is missing); reinstall hiper"
        )
    index = read_index(folder)
    kind = backbone_class(str(index.get("_class_name")), str(folder))
    check_components(index, folder)
    if any(index.get("safety_checker") or ()) and not (folder / "safety_checker").is_dir():
        warnings.warn(
            f"{name} names a safety checker that is not there; pictures are not checked",
            HiperWarning,
            stacklevel=4,
        )
    backbone: Backbone = kind.from_folder(
        folder, name=name, revision=revision, guidance_scale=guidance_scale, how=how
    )
    if (folder / FILE).is_file():
        backbone.tail_encoder = TailEncoder.load(folder / FILE, backbone.latent_shape, backbone.embed_dim)
    return backbone


def _from_file(path: Path, how: Loading, *, network: bool) -> Backbone:
    from hiper.backbones.sd import SdBackbone
    from hiper.backbones.sdxl import SdxlBackbone
    from hiper.backbones.single_file_contents import check_contents
    from hiper.backbones.single_file_xl import is_xl
    from hiper.backbones.variants import PICKLES
    from hiper.backbones.weights import read_header

    if path.suffix.lower() in PICKLES:
        raise BackboneError(f"{path} is a pickle, which may run code; convert it to safetensors")
    if path.suffix.lower() != ".safetensors":
        raise BackboneError(f"{path} is no model; allowed are a diffusers folder and a .safetensors file")
    if how.quantise is not None:
        raise OptionError(
            f"{path} is a single file, which is not quantised; load the model's diffusers folder"
        )
    header = read_header(path)
    check_contents(path, header)
    kind = SdxlBackbone if is_xl(header) else SdBackbone
    return kind.from_single_file(path, header, how=how, network=network)


def _from_hub(name: str, revision: str | None, how: Loading, *, local_only: bool) -> Backbone:
    from hiper.backbones.hub import cached_folder, fetch_files, fetch_index
    from hiper.backbones.weights import check_components, read_index

    if local_only:
        folder = cached_folder(name, revision)
        return _from_folder(folder, name, folder.name, None, how)
    snapshot = fetch_index(name, revision)
    index = read_index(snapshot)
    backbone_class(str(index.get("_class_name")), name)
    check_components(index, snapshot)
    fetch_files(name, snapshot)
    return _from_folder(snapshot, name, snapshot.name, None, how)


def _check_hub_id(name: str, path: Path) -> None:
    """Refuse what can only be meant as a path, or is no id: the Hub is asked for plausible ids alone."""
    near = suggestion(path.name, _siblings(path))
    local = (
        path.is_absolute()
        or name.startswith((".", "~"))
        or "\\" in name
        or path.suffix.lower() == ".safetensors"
    )
    if local or len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir()):
        raise BackboneError(f"no such folder or file: {name}{near}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        known = [*EMBEDDED, *_siblings(path)]
        raise BackboneError(
            f"no model {name!r}{suggestion(name, known)}; allowed are {', '.join(EMBEDDED)},"
            " a folder, a .safetensors file, or a Hub id such as owner/name"
        )


def _siblings(path: Path) -> list[str]:
    return [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
