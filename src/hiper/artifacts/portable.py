"""An artifact as it may be given to strangers."""

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
    """Keep the name of an embedded model and, as they come with a revision, of a Hub's; of a path its last part."""
    if backbone in EMBEDDED or revision:
        return backbone
    return re.split(r"[/\\]", backbone.rstrip("/\\"))[-1]
