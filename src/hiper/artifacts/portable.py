"""Copies of artifacts to give to strangers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TypeVar

from hiper.artifacts.header import PARTS, ArtifactHeader
from hiper.backbones import EMBEDDED, MODELSPEC

H = TypeVar("H", bound=ArtifactHeader)


def portable(artifact: H) -> H:
    """Return a copy without a path of this computer, the picture's thumbnail and other tools' header entries."""
    name = public_name(artifact.backbone, artifact.revision)
    kept = {key: text for key, text in artifact.extra.items() if key in (PARTS, MODELSPEC)}
    return replace(artifact, backbone=name, thumbnail="", extra=kept)


def public_name(backbone: str, revision: str) -> str:
    """Return the name of an embedded model or one of the Hub (it has a revision), or the last part of a path."""
    if backbone in EMBEDDED or revision:
        return backbone
    return re.split(r"[/\\]", backbone.rstrip("/\\"))[-1]
