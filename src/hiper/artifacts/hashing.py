"""The hash by which artifacts and their copies are identified."""

from __future__ import annotations

import hashlib
import json
from weakref import WeakKeyDictionary

from hiper.artifacts.artifact import Artifact
from hiper.artifacts.header import encode
from hiper.artifacts.portable import portable


def content_sha256(artifact: Artifact) -> str:
    """Hash what a portable copy holds, so that an artifact and its copies have one hash; hexadecimal.

    Computed once for each artifact, for some hold a whole denoiser.
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
