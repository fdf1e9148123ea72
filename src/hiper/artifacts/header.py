"""The header of an artifact, as the text entries of a safetensors file.

`hiper.*` entries are text, or JSON where structured. `modelspec.*` entries repeat some of it in the
vocabulary that other tools show (Stability AI's ModelSpec 1.0.1). All others are kept as they came.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hiper.errors import ArtifactError
from hiper.files import parse_json
from hiper.options import Value, conforms

SCHEMA = 1
UNKNOWN_SEED = -1

PREFIX = "hiper."
PARTS = f"{PREFIX}parts"
"""Entry of a combined artifact: a JSON list that says of every part what it was and how much it counts."""

TEXTS = ("method", "family", "backbone", "revision", "caption", "image_sha256", "created")
_MAPPINGS: Mapping[str, Any] = {
    "options": Mapping[str, Value],
    "edit": Mapping[str, Value],
    "figures": Mapping[str, float],
    "versions": Mapping[str, str],
}
_ANY_NUMBER = ("figures", "fingerprint")
"""A loss may be infinite; neither is shown as it stands."""
_THUMBNAIL = "modelspec.thumbnail"
_ARCHITECTURES = {"sd1": "stable-diffusion-v1", "sd2": "stable-diffusion-v2"}
_HINT = 'hiper edit FILE "a sentence"; rows of the text encoder\'s output, not a textual inversion'


@dataclass(frozen=True, kw_only=True, eq=False)
class ArtifactHeader:
    """What is known of a fit, as plain data.

    Attributes:
        method: That made it.
        family: Of the model.
        backbone: The model's name or path.
        revision: Of a model from the Hub, else "".
        fingerprint: Of the model's weights; see `Backbone`.
        caption: Of the picture.
        image_sha256: Of the picture; "" when not known.
        seed: Of the fit; UNKNOWN_SEED (-1) when not known.
        options: Of the method, resolved.
        edit: Defaults for editing: strength, guidance_scale, num_inference_steps, scheduler; of a file of an earlier
            release under the names of `options.EARLIER_SAMPLING`.
        figures: Seconds and losses.
        versions: Of the libraries.
        created: UTC, ISO 8601.
        thumbnail: A data URL, or "".
        extra: Header entries of other tools or later releases, kept as they were.
    """

    method: str
    family: str
    backbone: str
    revision: str
    fingerprint: tuple[float, ...]
    caption: str
    image_sha256: str
    seed: int
    options: Mapping[str, Value]
    edit: Mapping[str, Value]
    figures: Mapping[str, float]
    versions: Mapping[str, str]
    created: str
    thumbnail: str
    extra: Mapping[str, str]


def encode(artifact: ArtifactHeader) -> dict[str, str]:
    """Return all header entries; a control character in a text becomes U+FFFD."""
    structured = {
        "schema": SCHEMA,
        "seed": artifact.seed,
        "fingerprint": artifact.fingerprint,
        **{name: dict(getattr(artifact, name)) for name in _MAPPINGS},
    }
    return {
        **artifact.extra,
        **_modelspec(artifact),
        **{f"{PREFIX}{name}": _clean(getattr(artifact, name)) for name in TEXTS},
        **{f"{PREFIX}{name}": json.dumps(value, sort_keys=True) for name, value in structured.items()},
    }


def decode(entries: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of an `ArtifactHeader`; ArtifactError, without the path, if broken."""
    _check_schema(_entry(entries, "schema"))
    _check_parts(entries)
    own = {f"{PREFIX}{name}" for name in (*TEXTS, *_MAPPINGS, "schema", "seed", "fingerprint")}
    return {
        **{name: _text(entries, name) for name in TEXTS},
        **{name: _value(entries, name, kind) for name, kind in _MAPPINGS.items()},
        "seed": _value(entries, "seed", int),
        "fingerprint": tuple(map(float, _value(entries, "fingerprint", Sequence[float]))),
        "thumbnail": entries.get(_THUMBNAIL, ""),
        "extra": {name: text for name, text in entries.items() if name not in own | _MODELSPEC},
    }


def _modelspec(artifact: ArtifactHeader) -> dict[str, str]:
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_ARCHITECTURES.get(artifact.family, artifact.family)}/{artifact.method}",
        "modelspec.implementation": "hiper",
        "modelspec.title": _clean(artifact.caption) or artifact.method,
        "modelspec.date": artifact.created,
        "modelspec.usage_hint": _HINT,
        _THUMBNAIL: artifact.thumbnail,
    }


_MODELSPEC = {
    f"modelspec.{name}"
    for name in [
        "sai_model_spec",
        "architecture",
        "implementation",
        "title",
        "date",
        "usage_hint",
        "thumbnail",
    ]
}


def _is_control(character: str) -> bool:
    """Whether a character could control a terminal, or is a lone surrogate, which is no text."""
    return unicodedata.category(character) in ("Cc", "Cs")


def _clean(text: str) -> str:
    return "".join("\ufffd" if _is_control(character) else character for character in text)


def _check_schema(schema: str) -> None:
    if schema == str(SCHEMA):
        return
    if schema.isascii() and schema.isdecimal() and len(schema) < 10 and int(schema) > SCHEMA:
        raise ArtifactError(f"schema {schema} is newer than this hiper, which reads {SCHEMA}; upgrade hiper")
    raise _broken("schema")


def _entry(entries: Mapping[str, str], name: str) -> str:
    if f"{PREFIX}{name}" not in entries:
        raise ArtifactError(f"its header lacks {PREFIX}{name}; another program has rewritten it, fit again")
    return entries[f"{PREFIX}{name}"]


def _text(entries: Mapping[str, str], name: str) -> str:
    text = _entry(entries, name)
    if any(map(_is_control, text)):
        raise _broken(name)
    return text


def _value(entries: Mapping[str, str], name: str, kind: Any) -> Any:
    value = _json(entries, name)
    if not conforms(value, kind):
        raise _broken(name)
    return value


def _check_parts(entries: Mapping[str, str]) -> None:
    """Check the parts of a combined artifact: a list of objects of scalars, and of lists of such."""
    levels = [_json(entries, "parts")] if PARTS in entries else []
    while levels:
        parts = levels.pop()
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise _broken("parts")
        for name, value in (item for part in parts for item in part.items()):
            if name == "parts":
                levels.append(value)
            elif not conforms(value, Value):
                raise _broken("parts")


def _json(entries: Mapping[str, str], name: str) -> Any:
    parse = json.loads if name in _ANY_NUMBER else parse_json
    try:
        return parse(_entry(entries, name))
    except (ValueError, RecursionError) as error:
        raise _broken(name) from error


def _broken(name: str) -> ArtifactError:
    return ArtifactError(
        f"damaged: its header entry {PREFIX}{name} cannot be read; copy it again, or fit again"
    )
