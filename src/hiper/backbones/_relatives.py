"""Pipelines that read their sentences as a supported one does: ControlNet, img2img, inpainting, a user's subclass.

Token embeddings need text encoders and the denoiser's kind, so these are what decides. Calls into diffusers, which
carry no types.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
from torch import Tensor

from hiper.backbones._diffusers import Pipeline, pipeline_class, quiet
from hiper.errors import BackboneError, HiperWarning

_UNETS = ("UNet2DConditionModel", "UNetMotionModel", "UNetControlNetXSModel")
"""What diffusers makes of the UNet of Stable Diffusion 1, 2 and XL; text goes into all of them alike."""


def own_class(pipe: Pipeline, names: Sequence[str]) -> str | None:
    """Return which of the classes, by name, a pipeline's is or descends from."""
    return next((kind.__name__ for kind in type(pipe).__mro__ if kind.__name__ in names), None)


def related_class(pipe: Pipeline, names: Sequence[str]) -> str | None:
    """Return which of diffusers' classes, by name, has the same text encoders and the same kind of denoiser.

    None for a pipeline whose text encoder sees pictures as well: its sentences are other ones.
    """
    encode = getattr(type(pipe), "encode_prompt", getattr(type(pipe), "_encode_prompt", None))
    if encode is None or any("image" in name for name in set(signature(encode).parameters) - {_PER_PROMPT}):
        return None
    return next((name for name in names if name in dir(diffusers) and _is_related(pipe, name)), None)


_PER_PROMPT = "num_images_per_prompt"


def _is_related(pipe: Pipeline, name: str) -> bool:
    kinds = pipeline_class(name)._get_signature_types()  # noqa: SLF001
    parts = _readers(pipe)
    wanted = {part: kind for part, kind in kinds.items() if _reads(part)}
    return wanted.keys() == parts.keys() and all(_is_a(parts[part], kind) for part, kind in wanted.items())


def _readers(pipe: Pipeline) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if _reads(name)}


def _reads(component: str) -> bool:
    return component.startswith(("text_encoder", "unet", "transformer"))


def _is_a(part: Any, kinds: Sequence[type]) -> bool:
    """Tell whether a component is of the kind that the pipeline asks for; one that was left out may be."""
    part = getattr(part, "_orig_mod", part)  # torch.compile's wrapper
    unet = type(part).__name__ in _UNETS and kinds[0].__name__ in _UNETS
    return part is None or unet or isinstance(part, tuple(kinds))


def as_class(pipe: Pipeline, name: str) -> Pipeline:
    """Return a pipeline of that class of diffusers, made of the components and the configuration of a relative."""
    kind = pipeline_class(name)
    there = {**pipe.config, **pipe.components}
    parameters = {each: there.get(each, Parameter.empty) for each in signature(kind.__init__).parameters}
    known = {each: value for each, value in parameters.items() if value is not Parameter.empty}
    missing = dict.fromkeys(kind._get_signature_keys(kind)[0])  # noqa: SLF001
    with quiet():
        return kind(**{**missing, **known})


def check_readers(pipe: Pipeline, optional: Sequence[str]) -> None:
    """Refuse a pipeline that lacks what its sentences are read with, and what tells the model."""
    needed = {name: part for name, part in pipe.components.items() if _reads(name) or "tokenizer" in name}
    for name, part in needed.items():
        if part is None and name.replace("tokenizer", "text_encoder") not in optional:
            raise BackboneError(
                f"the {type(pipe).__name__} has no {name}, which token embeddings take; load it with one, make them,"
                " and hand them to the pipeline without"
            )


def for_call(pipe: Pipeline, arguments: Mapping[str, Any], *, is_negative_heard: bool) -> dict[str, Any]:
    """Return the arguments that a pipeline's own call takes; HiperWarning where it takes no negative sentence.

    Args:
        pipe: A relative of the pipeline that the arguments are for.
        arguments: As `Backbone.pipeline_kwargs` returns them.
        is_negative_heard: Whether a negative sentence or tail was asked for.

    Raises:
        BackboneError: It takes no token embeddings at all.
    """
    taken = signature(type(pipe).__call__).parameters
    if any(each.kind is Parameter.VAR_KEYWORD for each in taken.values()):
        return dict(arguments)
    left = {name: value for name, value in arguments.items() if name not in taken}
    if any("embeds" in name and not name.startswith("negative") for name in left):
        raise BackboneError(
            f"a {type(pipe).__name__} takes no {' nor '.join(left)}: it cannot draw from token embeddings"
        )
    if is_negative_heard and "negative_prompt_embeds" in left:
        warnings.warn(
            f"a {type(pipe).__name__} takes no negative sentence; yours is ignored",
            HiperWarning,
            stacklevel=3,
        )
    return {name: value for name, value in arguments.items() if name in taken}


def batched(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the arguments of several pictures, as `for_call` returns them, into those of one call.

    Tables of different lengths, which have masks, are filled up with zeros: [batch, length, embed_dim], masks
    [batch, length].
    """
    return {name: _joined([arguments[name] for arguments in each]) for name in each[0]}


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    if not isinstance(first, Tensor):
        return first
    length = max(value.shape[1] for value in values)
    return torch.cat([_lengthened(value, length) for value in values])


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, length - tensor.shape[1]))
