"""Edit: any sentence, with what was learnt, into pictures. Knows no method by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Unpack, cast

import torch

from hiper.artifacts import PARTS, Artifact, EditResult, GivenPicture, check_compatible, combine
from hiper.backbones import Backbone, Samples, StepCallback, batched, for_call, wrap_reader
from hiper.conditioning import Conditioning
from hiper.critters import word_notes
from hiper.errors import HiperWarning, OptionError
from hiper.images import clean_text
from hiper.inference.edited_picture import EditedPicture, Picture, Region, given_picture, held_picture
from hiper.inference.keeping import KeepingSampler
from hiper.inference.settings import resolve_negatives, resolve_settings
from hiper.methods import KEEP_SOURCE, PromptEncoder, Sampler, get_method
from hiper.options import (
    EARLIER_SAMPLING,
    KEEP,
    AnySamplingKwargs,
    EarlierSamplingKwargs,
    NegativePrompt,
    SamplingKwargs,
    SamplingSettings,
    check_number,
    check_whole,
    current_names,
    determinism,
    resolve_strength,
)
from hiper.seeds import resolve_seed

MANY_TIMES = 4
"""Of the steps that suit a model: a file fitted on an ordinary model asks for that many of a distilled one."""


def edit(
    backbone: Backbone,
    artifact: Artifact | Sequence[Artifact],
    prompt: str,
    *,
    seeds: Sequence[int] = (0,),
    strength: float | Sequence[float | None] | None = None,
    negative: Artifact | None = None,
    negative_strength: float | None = None,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    scheduler: str | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: NegativePrompt = "",
    keep: float | None = None,
    source: Picture | EditedPicture | None = None,
    region: Region | None = None,
    into: Picture | None = None,
    into_caption: str = "",
    batch_size: int = 4,
    callback: StepCallback | None = None,
    deterministic: bool = False,
    **earlier: Unpack[EarlierSamplingKwargs],
) -> EditResult:
    """Draw one picture per seed of what a prompt says, with the artifact's subject in it.

    A HiperWarning is issued for truncated words, a rounded size, another checkpoint of the family, flagged pictures,
    and a setting given under its earlier name.

    Args:
        backbone: The model.
        artifact: What was learnt, or several that are to appear together, as `combine` puts them.
        prompt: What to draw.
        seeds: 0 to 2**63 - 1, or -1 for a random one; picture i depends on seed i only, not on its batch.
        strength: Factor on what was learnt, 0 for none, 0.8 in the paper; of several, one for all or one each. None
            takes the artifact's own, here and below.
        negative: What was learnt of something that the pictures are to avoid; method hiper only.
        negative_strength: Factor on it.
        guidance_scale: Scale of the classifier-free guidance, 1 to 100.
        num_inference_steps: Denoising steps, 1 to 1000.
        scheduler: One of the backbone's `schedulers`.
        height: Pixels, rounded to the model's `size_multiple`; None takes its native side.
        width: The same.
        negative_prompt: One, or one per seed.
        keep: How much of the source stays where the prompt does not change it, 0 to 1: 0 draws a new picture, 1
            returns the source (see `KeepingSampler`); the size is then the source's. None takes the artifact's own,
            0.5 by default; an artifact without its source draws a new picture.
        source: The subject's picture, in place of the latents that the artifact holds of it; or what `prepare_picture`
            made of all three pictures, for several edits of them.
        region: Where the picture may change: a mask of its size, white, or a box (left, top, right, bottom) in pixels.
            A crop around it is drawn and put back; pixels outside keep their values.
        into: Another picture, into whose region the subject is drawn.
        into_caption: What that picture shows.
        batch_size: Pictures drawn at a time.
        callback: Called after each denoising step with (steps done, steps in all).
        deterministic: The same bits every time on an accelerator too, slower; see `hiper.options.determinism`.

    Returns:
        The pictures, and all that is needed to draw them again.

    Raises:
        ArtifactError: The artifact is of another family of models.
        ImageError: A picture or a region cannot be read.
        OptionError: A value is out of range, or a region or picture has no effect.
    """
    learnt = _combined(artifact, strength, negative, negative_strength)
    check_compatible(learnt.artifact, backbone)
    chosen = tuple(resolve_seed(seed) for seed in seeds)
    check_whole("number of seeds", len(chosen), 1, 100_000)
    check_whole("batch_size", batch_size, 1, 100_000)
    notes: list[str] = []
    given = given_settings(
        notes,
        strength=learnt.strength,
        guidance_scale=guidance_scale,
        num_inference_steps=num_inference_steps,
        scheduler=scheduler,
        height=height,
        width=width,
        negative_prompt=negative_prompt,
        keep=keep,
        **earlier,
    )
    cleaned = cleaned_prompt(prompt, backbone, notes)
    named = _named(source, region, into)
    if named:
        _check_keeps(backbone, learnt.artifact)
        if keep is None:  # more than a default, which a size would turn into 0
            given["keep"] = check_number("keep", learnt.artifact.edit.get(KEEP_SOURCE, KEEP), 0, 1)
    elif keep and not _keeps(learnt.artifact):
        notes.append(f"method {learnt.artifact.method} has a way of its own to edit; keep is ignored")
        given["keep"] = 0.0
    if into_caption and "into" not in named:
        raise OptionError("into_caption is given without into, the picture that it describes")
    with determinism.deterministic(deterministic):
        start = prepare_picture(backbone, learnt.artifact, source=source, region=region, into=into)
        if start is not None and start.sha256 and learnt.artifact.image_sha256 not in ("", start.sha256):
            notes.append("the source is another picture than the one that was learnt, or had a mask then")
        held = learnt.artifact.source if start is None else start.latents
        settings = resolve_settings(
            learnt.artifact.edit, backbone, notes, source=held, images=len(chosen), **given
        )
        if not settings.keep:
            _check_drawn_anew(learnt.artifact, notes, keep, start, region)
        elif start is None and held is not None:
            start = held_picture(backbone, held)
        asked = backbone, learnt.artifact, cleaned, settings.strength, settings.negative_prompt, notes
        with prepared_prompt(*asked) as encoded:
            prepared = encoded
            if start is not None:
                caption = into_caption if "into" in named else None
                prepared = _keeping(backbone, learnt.artifact, encoded, settings, start, caption, notes)
            notes += unsuitable(backbone, prepared, settings, given)
            drawn = _draw(prepared, chosen, settings, batch_size, callback)
    flagged = tuple(seed for seed, flag in zip(chosen, drawn.flagged, strict=True) if flag)
    notes += [
        f"the safety checker blackened the picture of seed {seed}; try another seed" for seed in flagged
    ]
    for note in notes:
        warnings.warn(note, HiperWarning, stacklevel=2)
    return EditResult(
        images=drawn.images if start is None else start.put_back(drawn.images),
        prompt=cleaned,
        seeds=chosen,
        settings=settings,
        batch_size=batch_size,
        flagged=flagged,
        notes=tuple(notes),
        given=named,
        masks=()
        if start is None or drawn.masks is None
        else start.put_back_masks(drawn.masks, drawn.images[0].size),
    )


def prompt_embeds(
    model: Any,
    artifact: Artifact | Sequence[Artifact],
    prompt: str | Sequence[str],
    *,
    strength: float | Sequence[float | None] | None = None,
    negative_prompt: NegativePrompt = "",
    negative: Artifact | None = None,
    negative_strength: float | None = None,
) -> dict[str, Any]:
    """Return the token embeddings of an edit for a pipeline call of your own: `pipe(**prompt_embeds(pipe, ...))`.

    Args:
        model: A Backbone, or a diffusers pipeline that encodes prompts as a supported one does, whatever else it does:
            ControlNet, img2img, inpainting, a subclass of yours. It may be offloaded, lack a vae, or have parts of
            different dtypes.
        artifact: As in `edit`.
        prompt: One, or several, for a picture each.
        strength: As in `edit`.
        negative_prompt: One for all pictures, or one for each.
        negative: As in `edit`.
        negative_strength: As in `edit`.

    Returns:
        Tensors for as many pictures as there are prompts, [batch, length, embed_dim], in the denoiser's dtype and on
        its device, with whatever else its family takes (pooled embeddings, masks).

    Raises:
        OptionError: The method's edits are more than token embeddings; otherwise as `edit`, which warns of the same.
        BackboneError: The pipeline encodes prompts in another way, has no text encoder, or takes no embeddings.
    """
    backbone = model if isinstance(model, Backbone) else wrap_reader(model)
    learnt = _combined(artifact, strength, negative, negative_strength)
    check_compatible(learnt.artifact, backbone)
    if not get_method(learnt.artifact.method).token_embeddings_only:
        raise OptionError(
            f"an edit by method {learnt.artifact.method} is more than token embeddings; draw it with hiper.edit,"
            " which takes hiper.load_backbone or a wrapped pipeline"
        )
    notes: list[str] = []
    factor = resolve_strength(learnt.artifact.edit, learnt.strength)
    prompts: list[Any] = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    check_whole("number of prompts", len(prompts), 1, 100_000)
    cleaned = [cleaned_prompt(text, backbone, notes) for text in prompts]
    negatives = resolve_negatives(negative_prompt, len(cleaned), notes, of="prompt")
    each = []
    for text, other in zip(cleaned, negatives * (len(cleaned) // len(negatives)), strict=True):
        with prepared_prompt(backbone, learnt.artifact, text, factor, [other], notes) as prepared:
            each.append(backbone.pipeline_kwargs(prepared.positive, prepared.negatives))
            notes += _ignored_settings(backbone, prepared, None, None)
    for note in dict.fromkeys(notes):
        warnings.warn(note, HiperWarning, stacklevel=2)
    arguments = batched(each)
    if isinstance(model, Backbone):
        return arguments
    return for_call(model, arguments, is_negative_heard=any(negatives) or negative is not None)


def given_settings(notes: list[str], **asked: Unpack[AnySamplingKwargs]) -> SamplingKwargs:
    """Return the settings that were asked for, under their present names; a note goes to `notes` for earlier ones."""
    given = {name: value for name, value in asked.items() if value is not None}
    return cast(SamplingKwargs, current_names(given, EARLIER_SAMPLING, notes))


def cleaned_prompt(prompt: str, backbone: Backbone, notes: list[str]) -> str:
    """Return the sentence to encode; what was cleaned away, and words unknown to the model, go to `notes`."""
    cleaned = clean_text(prompt, what="prompt", notes=notes)
    notes += word_notes(cleaned, "prompt", backbone.id)
    return cleaned


@dataclass(frozen=True, kw_only=True)
class _Learnt:
    """One artifact, and the factor on it that was asked for."""

    artifact: Artifact
    strength: float | None


def _combined(
    artifact: Artifact | Sequence[Artifact],
    strength: float | Sequence[float | None] | None,
    negative: Artifact | None,
    negative_strength: float | None,
) -> _Learnt:
    if isinstance(artifact, Artifact) and negative is None and not isinstance(strength, Sequence):
        return _Learnt(artifact=artifact, strength=strength)
    artifacts = [artifact] if isinstance(artifact, Artifact) else artifact
    together = combine(artifacts, strength=strength, negative=negative, negative_strength=negative_strength)
    return _Learnt(artifact=together, strength=None)


@dataclass(frozen=True, kw_only=True)
class PreparedPrompt:
    """What is to be drawn, and by what: the prompt, and the negatives, one for all or one per picture."""

    positive: Conditioning
    negatives: Sequence[Conditioning]
    sampler: Sampler
    encode: PromptEncoder


@contextmanager
def prepared_prompt(
    backbone: Backbone,
    artifact: Artifact,
    prompt: str,
    strength: float,
    negatives: Sequence[str],
    notes: list[str],
) -> Iterator[PreparedPrompt]:
    """Attach what was learnt and encode both prompts.

    Args:
        backbone: The model.
        artifact: What was learnt.
        prompt: Cleaned.
        strength: Factor on what was learnt.
        negatives: Negative prompts, one for all pictures or one for each.
        notes: Collects words that do not fit.

    Yields:
        What to draw, and by what.
    """
    with get_method(artifact.method).attach(backbone, artifact, strength) as attached:
        positive = attached.encode(prompt)
        encode = attached.encode_negative or backbone.encode_negative
        others = {text: encode(text) for text in dict.fromkeys(negatives)}
        notes += positive.notes
        notes += [f"negative prompt: {note}" for other in others.values() for note in other.notes]
        yield PreparedPrompt(
            positive=positive,
            negatives=[others[text] for text in negatives],
            sampler=attached.sampler or backbone,
            encode=attached.encode,
        )


def unsuitable(
    backbone: Backbone,
    prepared: PreparedPrompt,
    settings: SamplingSettings,
    given: SamplingKwargs,
) -> Iterator[str]:
    """Yield notes on settings that have no effect, and on a file's own steps on a model that suits few.

    Args:
        backbone: The model.
        prepared: What is drawn.
        settings: How.
        given: What was asked for; the rest is the file's own.
    """
    yield from _ignored_settings(backbone, prepared, settings, given.get("guidance_scale"))
    own, suited = settings.num_inference_steps, backbone.default_num_inference_steps
    if given.get("num_inference_steps") is None and own >= MANY_TIMES * suited:
        yield (
            f"{backbone.id} suits {suited} steps at guidance {backbone.default_guidance_scale:g} by"
            f" {backbone.schedulers[0]}; the file's own {own} at {settings.guidance_scale:g} by"
            f" {settings.scheduler} are used: give num_inference_steps, guidance_scale and scheduler"
        )


def prepare_picture(
    backbone: Backbone,
    artifact: Artifact,
    *,
    source: Picture | EditedPicture | None = None,
    region: Region | None = None,
    into: Picture | None = None,
) -> EditedPicture | None:
    """Encode once what several edits start from; give it to `edit` as `source`.

    Args:
        backbone: The model.
        artifact: What was learnt.
        source: As in `edit`.
        region: As in `edit`, of the source, of `into`, or of the picture that the artifact holds.
        into: As in `edit`.

    Returns:
        What to start from; None where `edit` finds all that it needs in the artifact.

    Raises:
        ImageError: As `edit`.
        OptionError: As `edit`.
    """
    if isinstance(source, EditedPicture):
        if region is not None or into is not None:
            raise OptionError("source is a prepared picture; give region and into to prepare_picture")
        return source
    named = _named(source, region, into)
    if named:
        _check_keeps(backbone, artifact)
    if into is not None and source is not None:
        raise OptionError(
            "source and into are both given; source is the subject's own picture, into another one"
        )
    if into is not None and region is None:
        raise OptionError("into is given without a region; say by a mask or a box where the subject goes")
    picture = source if into is None else into
    if picture is None:
        if region is None or artifact.source is None:
            return None
        return replace(held_picture(backbone, artifact.source, region), given=named)
    start = given_picture(backbone, picture, region)
    return replace(start, given=named, sha256="" if into is not None else start.sha256)


def _named(
    source: Picture | EditedPicture | None, region: Region | None, into: Picture | None
) -> tuple[GivenPicture, ...]:
    """Return which of the three are given."""
    if isinstance(source, EditedPicture):
        return source.given
    named: Mapping[GivenPicture, object] = {"source": source, "region": region, "into": into}
    return tuple(name for name, each in named.items() if each is not None)


def _keeps(artifact: Artifact) -> bool:
    """Whether edits by the artifact's method can keep a picture."""
    return KEEP_SOURCE in get_method(artifact.method).editing


def _check_keeps(backbone: Backbone, artifact: Artifact) -> None:
    """Refuse a given picture or region where the model or the method cannot keep one."""
    keeps = _keeps(artifact)
    if not keeps or "trajectory" not in backbone.capabilities:
        what = backbone.id if keeps else f"method {artifact.method}"
        raise OptionError(f"{what} cannot keep a picture; leave out source, region and into")


def _check_drawn_anew(
    artifact: Artifact,
    notes: list[str],
    keep: float | None,
    start: EditedPicture | None,
    region: Region | None,
) -> None:
    """Refuse a picture or region without effect; note it where a user would expect the source to be kept."""
    if start is not None or region is not None:
        if keep == 0 or start is not None or artifact.source is not None:
            raise OptionError(
                f"keep is 0, which draws a new picture; give keep, such as {KEEP}, or leave out source, region and into"
            )
        raise OptionError(
            "a region is given, and the file holds no latents of its picture; name it as source"
        )
    is_default = keep is None and _keeps(artifact) and artifact.edit.get(KEEP_SOURCE, KEEP)
    if not is_default or artifact.source is not None:
        return
    if artifact.image_sha256:
        notes.append(
            "the file holds no latents of its picture, so that it is drawn anew; fit again to keep it"
        )
    elif PARTS in artifact.extra:
        notes.append("the files are of different pictures, so that a new one is drawn; name one as source")


def _keeping(
    backbone: Backbone,
    artifact: Artifact,
    prepared: PreparedPrompt,
    settings: SamplingSettings,
    start: EditedPicture,
    caption: str | None,
    notes: list[str],
) -> PreparedPrompt:
    """Draw from the source's latents instead of from noise.

    caption: Of another picture than the subject's own, which has nothing of what was learnt.
    """
    if prepared.sampler is not backbone or "trajectory" not in backbone.capabilities:
        what = f"method {artifact.method}" if prepared.sampler is not backbone else backbone.id
        raise OptionError(f"keep is {settings.keep:g}, which {what} cannot do; draw by keep=0")
    if caption is None:
        encoded = prepared.encode(artifact.caption)
    else:
        encoded = backbone.encode(clean_text(caption, what="caption of into", may_be_empty=True, notes=notes))
    sampler = KeepingSampler(
        backbone=backbone,
        source=start.latents,
        caption=encoded,
        region=None if start.placement is None else start.placement.latent_mask(start.latents),
    )
    return replace(prepared, sampler=sampler)


def _ignored_settings(
    backbone: Backbone, prepared: PreparedPrompt, settings: SamplingSettings | None, asked: float | None
) -> Iterator[str]:
    """Yield notes on settings that have no effect; `settings` is None where nothing is drawn."""
    sampler = prepared.sampler
    if any(each.prompt or each.tail for each in prepared.negatives):
        if not sampler.uses_negative_prompt:
            yield f"{backbone.id} is distilled to be guided without a negative sentence; yours is ignored"
        elif settings is not None and not sampler.uses_negative_prompt_at(settings.guidance_scale):
            yield "a guidance of 1 or less is none, so that the negative sentence is ignored; raise the guidance"
    if asked is not None and asked > 1 and not sampler.uses_guidance:
        yield f"{backbone.id} is distilled to draw without guidance; the scale {asked:g} is ignored"


def _draw(
    prepared: PreparedPrompt,
    seeds: Sequence[int],
    settings: SamplingSettings,
    batch_size: int,
    callback: StepCallback | None,
) -> Samples:
    parts: list[Samples] = []
    negatives = prepared.negatives
    if not isinstance(prepared.sampler, Backbone) and len({each.sequence_length for each in negatives}) > 1:
        batch_size = 1  # one call of the denoiser takes prompts of one length
    total = math.ceil(len(seeds) / batch_size) * settings.num_inference_steps
    for batch, start in enumerate(range(0, len(seeds), batch_size)):
        parts.append(
            prepared.sampler.sample(
                prepared.positive,
                negatives if len(negatives) == 1 else negatives[start : start + batch_size],
                settings,
                seeds=seeds[start : start + batch_size],
                callback=_shifted(callback, batch * settings.num_inference_steps, total),
            )
        )
    masks = [part.masks for part in parts if part.masks is not None]
    return Samples(
        images=[image for part in parts for image in part.images],
        flagged=tuple(flag for part in parts for flag in part.flagged),
        masks=torch.cat(masks) if masks else None,
    )


def _shifted(callback: StepCallback | None, offset: int, total: int) -> StepCallback | None:
    if callback is None:
        return None
    return lambda done, _: callback(offset + done, total)
