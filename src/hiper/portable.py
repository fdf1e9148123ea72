"""An artifact as it may be given to strangers, and the hash by which such copies are told apart."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from hiper.artifact import Artifact
from hiper.artifact_header import PARTS
from hiper.backbones import EMBEDDED


def portable(artifact: Artifact) -> Artifact:
    """Return a copy without a path of this computer, the picture's thumbnail and other tools' header entries."""
    name = public_name(artifact.backbone, artifact.revision)
    parts = {key: text for key, text in artifact.extra.items() if key == PARTS}
    return replace(artifact, backbone=name, thumbnail="", extra=parts)


def content_sha256(artifact: Artifact) -> str:
    """Hash what a portable copy holds, so that an artifact and its copies have one hash; hexadecimal."""
    return hashlib.sha256(portable(artifact).to_bytes()).hexdigest()


def public_name(backbone: str, revision: str) -> str:
    """Keep the name of an embedded model and, as they come with a revision, of a Hub's; of a path its last part."""
    if backbone in EMBEDDED or revision:
        return backbone
    return re.split(r"[/\\]", backbone.rstrip("/\\"))[-1]
