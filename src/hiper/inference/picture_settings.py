"""What a drawn picture says of itself: all that is needed to draw it again, and no path of this computer.

A PNG carries it as text chunks: `hiper`, one JSON object; `parameters`, the same in the words of other tools, for
galleries; and `hiper.artifact`, a portable copy of what was learnt, when that is small.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from hiper.artifacts import Artifact, EditResult, GivenPicture, content_sha256, public_name
from hiper.backbones import Backbone
from hiper.errors import ImageError, OptionError
from hiper.files import parse_json
from hiper.options import EARLIER_SAMPLING, SamplingSettings, conforms, current_names, versions

SCHEMA = 1
SETTINGS, PARAMETERS, ARTIFACT, DEMO = "hiper", "parameters", "hiper.artifact", "hiper.demo"
"""Names of the text chunks; the last one, for pictures of `hiper demo` that no edit drew, holds its seed."""

LARGEST_ARTIFACT = 131_072
"""Bytes of an artifact that is embedded; five token embeddings of 4096 numbers, the widest in use, take some 90 000."""
LARGEST_SOURCE_BYTES = 600_000
"""Bytes that the source's latents may take beside it, where they were kept; FLUX's take 524 288."""

_SAMPLERS = {
    "ddim": "DDIM",
    "dpm++": "DPM++ 2M",
    "dpm++-karras": "DPM++ 2M Karras",
    "unipc": "UniPC",
    "unipc-karras": "UniPC Karras",
    "euler": "Euler",
    "pndm": "PLMS",
}


@dataclass(frozen=True, kw_only=True)
class PictureSettings(SamplingSettings):
    """How one picture was drawn: `SamplingSettings`, with one negative prompt or one per seed of the batch, and more.

    Attributes:
        prompt: What was drawn.
        seed: Of this picture.
        batch: The seeds drawn together with it, on which its last bits depend.
        strength: As in `SamplingSettings`, like the settings that follow.
        guidance_scale: Guidance scale.
        num_inference_steps: Denoising steps.
        scheduler: Sampler.
        height: Pixels.
        width: Pixels.
        negative_prompt: One, or one per seed of the batch.
        keep: How much of the source stays.
        backbone: The model; of a path, its last part.
        revision: Of a model from the Hub.
        device: That computed.
        dtype: Of the weights.
        quantised: How the weights are packed; "" where they are not.
        method: Of the artifact.
        family: Of the artifact.
        caption: Of the artifact.
        artifact_sha256: Its `content_sha256`.
        versions: Of the libraries that drew.
        given: Which of `source`, `region` and `into` the edit was given; the PNG carries none of them.
    """

    prompt: str
    seed: int
    batch: tuple[int, ...]
    backbone: str
    revision: str
    device: str
    dtype: str
    quantised: str
    method: str
    family: str
    caption: str
    artifact_sha256: str
    versions: Mapping[str, str]
    given: Sequence[GivenPicture] = ()


def settings_of(backbone: Backbone, artifact: Artifact, result: EditResult, seed: int) -> PictureSettings:
    """Return how the picture of `seed`, one of the result's, was drawn."""
    start = result.seeds.index(seed) // result.batch_size * result.batch_size
    batch = slice(start, start + result.batch_size)
    drawn = asdict(result.settings)
    negatives = result.settings.negative_prompt
    drawn["negative_prompt"] = negatives if len(negatives) == 1 else negatives[batch]
    return PictureSettings(
        prompt=result.prompt,
        seed=seed,
        batch=result.seeds[batch],
        **drawn,
        backbone=public_name(backbone.id, backbone.revision),
        revision=backbone.revision,
        device=backbone.device.type,
        dtype=str(backbone.dtype).removeprefix("torch."),
        quantised=backbone.quantised,
        method=artifact.method,
        family=artifact.family,
        caption=artifact.caption,
        artifact_sha256=content_sha256(artifact),
        versions=versions(),
        given=result.given,
    )


def text_chunks(settings: PictureSettings, artifact: Artifact | None) -> dict[str, str]:
    """Return the text chunks of a PNG; an artifact of more than `LARGEST_ARTIFACT` bytes is left out."""
    record = {"schema": SCHEMA, **asdict(settings)}
    chunks = {SETTINGS: json.dumps(record), PARAMETERS: _parameters(settings)}
    if artifact is not None and sum(t.nbytes for t in artifact.tensors.values()) <= LARGEST_ARTIFACT:
        data = artifact.shareable(source=settings.keep > 0 and not settings.given).to_bytes()
        if len(data) <= LARGEST_ARTIFACT + (LARGEST_SOURCE_BYTES if settings.keep else 0):
            chunks[ARTIFACT] = base64.b64encode(data).decode("ascii")
    return chunks


def parse_settings(text: str) -> PictureSettings:
    """Read the entry `hiper` of a PNG; `edit` checks the ranges of its values.

    Raises:
        ImageError: hiper did not write it.
    """
    try:
        record = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise _foreign("they are no JSON") from error
    if not isinstance(record, dict) or "schema" not in record:
        raise _foreign("they name no schema")
    schema = record.pop("schema")
    if schema != SCHEMA:
        raise _foreign(f"their schema is {str(schema)[:20]}, this hiper reads {SCHEMA}")
    record = {"keep": 0.0, "given": [], **record}  # pictures of earlier releases were all drawn anew
    try:
        record = current_names(record, EARLIER_SAMPLING)
    except OptionError as error:
        raise _foreign(str(error)) from error
    hints = get_type_hints(PictureSettings)
    if record.keys() != hints.keys():
        strange = sorted(record.keys() ^ hints.keys())
        raise _foreign(f"{strange[0][:40]!r} is missing or unknown")
    for name, kind in hints.items():
        if not conforms(record[name], kind):
            raise _foreign(f"{name!r} has an impossible value")
    values: dict[str, Any] = {name: _read(record[name], kind) for name, kind in hints.items()}
    settings = PictureSettings(**values)
    if settings.seed not in settings.batch:
        raise _foreign("its seed is none of its batch")
    return settings


def edit_arguments(settings: PictureSettings) -> dict[str, Any]:
    """Return the arguments of `edit`, but model and artifact, that draw the picture's batch again."""
    names = {each.name for each in fields(SamplingSettings)}
    drawn = {name: value for name, value in vars(settings).items() if name in names}
    return {**drawn, "prompt": settings.prompt, "seeds": settings.batch, "batch_size": len(settings.batch)}


def _read(value: Any, kind: Any) -> Any:
    """JSON knows no tuples and writes 2.0 as it likes."""
    if isinstance(value, list):
        return tuple(value)
    return float(value) if kind is float else value


def _foreign(why: str) -> ImageError:
    return ImageError(
        f"its settings were not written by hiper, or changed since ({why}); take the picture as it was drawn"
    )


def _parameters(settings: PictureSettings) -> str:
    """The settings in the form that the galleries of other tools show: prompt, negative prompt, one line of names."""
    negative = settings.negative_prompt[settings.batch.index(settings.seed) % len(settings.negative_prompt)]
    values = {
        "Steps": settings.num_inference_steps,
        "Sampler": _SAMPLERS.get(settings.scheduler, settings.scheduler),
        "CFG scale": settings.guidance_scale,
        "Seed": settings.seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model": settings.backbone,
        "HiPer caption": settings.caption,
        "HiPer strength": settings.strength,
        **({"HiPer keep": settings.keep} if settings.keep else {}),
        "HiPer artifact": settings.artifact_sha256[:10],
        "Version": f"hiper {settings.versions['hiper']}",
    }
    line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items())
    return "\n".join([settings.prompt, *([f"Negative prompt: {negative}"] if negative else []), line])


def _quoted(value: str) -> str:
    """Values with a comma, a colon or a quote stand in quotes, as those tools write them."""
    return json.dumps(value, ensure_ascii=False) if not value or set(value) & set(',:"\n') else value
