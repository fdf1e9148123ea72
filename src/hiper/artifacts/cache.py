"""The fits of earlier runs, addressed by all that decides them: the same question is never worked out twice."""

from __future__ import annotations

import warnings
from pathlib import Path

from hiper.artifacts.artifact import SCHEMA, Artifact
from hiper.backbones import Backbone
from hiper.errors import ArtifactError, HiperWarning
from hiper.files import cache_dir
from hiper.images import Subject
from hiper.options import Options, digest, fit_key


def fit_path(subject: Subject, backbone: Backbone, method: str, options: Options) -> Path:
    """Return where the fit of this job is or would be kept; the folder may not exist yet.

    The name is the digest of the fit's key, with all options (a seed of 0 or more), and the schema of the file.
    """
    key = fit_key(
        method, backbone.model_key(), picture=subject.sha256, caption=subject.caption, options=options
    )
    return cache_dir() / "fits" / f"{digest({'schema': SCHEMA, **key})}.safetensors"


def cached_fit(path: Path) -> Artifact | None:
    """Return the fit kept at `path`, None when there is none; warns (HiperWarning) of a damaged one."""
    if not path.exists():
        return None
    try:
        return Artifact.load(path)
    except ArtifactError as error:
        warnings.warn(f"a fit kept from an earlier run is not used: {error}", HiperWarning, stacklevel=2)
        return None
