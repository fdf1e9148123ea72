"""The fits of earlier runs, addressed by all that decides them: the same question is never worked out twice."""

from __future__ import annotations

import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path

from hiper.artifact import SCHEMA, Artifact
from hiper.backbones.base import Backbone
from hiper.errors import ArtifactError, HiperWarning
from hiper.files import cache_dir
from hiper.methods.options import Options
from hiper.subject import Subject


def fit_path(subject: Subject, backbone: Backbone, method: str, options: Options) -> Path:
    """Return where the fit of this job is or would be kept; the folder may not exist yet.

    The name is a SHA-256 of picture, mask, caption, method, options (with a seed of 0 or more), the release
    of hiper, the backbone's resolution, every weight of it and what it predicts: its fingerprint leaves out the
    picture encoder, and of two models that differ there alone one would be handed the other's fit.
    """
    job = {
        "schema": SCHEMA,
        "hiper": version("hiper"),
        "subject": subject.sha256,
        "caption": subject.caption,
        "backbone": backbone.id,
        "revision": backbone.revision,
        "weights": backbone.weights_sha256(),
        "objective": backbone.objective,
        "resolution": backbone.resolution,
        "method": method,
        "options": options.as_mapping(),
    }
    name = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "fits" / f"{name}.safetensors"


def cached_fit(path: Path) -> Artifact | None:
    """Return the fit kept at `path`, None when there is none; warns (HiperWarning) of a damaged one."""
    if not path.exists():
        return None
    try:
        return Artifact.load(path)
    except ArtifactError as error:
        warnings.warn(f"a fit kept from an earlier run is not used: {error}", HiperWarning, stacklevel=2)
        return None
