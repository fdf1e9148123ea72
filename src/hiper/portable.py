"""An artifact as it may be given to strangers, and the hash by which such copies are told apart."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from weakref import WeakKeyDictionary

from hiper.artifact import Artifact
from hiper.artifact_header import PARTS, encode
from hiper.backbones import EMBEDDED
from hiper.backbones.prediction import MODELSPEC


def portable(artifact: Artifact) -> Artifact:
    """Return a copy without a path of this computer, the picture's thumbnail and other tools' header entries."""
    name = public_name(artifact.backbone, artifact.revision)
    kept = {key: text for key, text in artifact.extra.items() if key in (PARTS, MODELSPEC)}
    return replace(artifact, backbone=name, thumbnail="", extra=kept)


def content_sha256(artifact: Artifact) -> str:
    """Hash what a portable copy holds, so that an artifact and its copies have one hash; hexadecimal.

    Reckoned once for each artifact: some hold a whole denoiser.
    """
    if artifact not in _HASHES:
        _HASHES[artifact] = _hashed(portable(artifact))
    return _HASHES[artifact]


def _hashed(artifact: Artifact) -> str:
    digest = hashlib.sha256(json.dumps(encode(artifact), sort_keys=True).encode())
    for name, tensor in sorted(artifact.tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


_HASHES: WeakKeyDictionary[Artifact, str] = WeakKeyDictionary()


def public_name(backbone: str, revision: str) -> str:
    """Keep the name of an embedded model and, as they come with a revision, of a Hub's; of a path its last part."""
    if backbone in EMBEDDED or revision:
        return backbone
    return re.split(r"[/\\]", backbone.rstrip("/\\"))[-1]
