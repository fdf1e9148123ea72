"""The fits of earlier runs, under the hash of all that decides them."""

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
    """Return the path at which a fit is kept; the folder may not exist yet.

    The name is the hash of the fit's key, with all options (a seed of 0 or more), and of the schema of the file.
    """
    key = fit_key(
        method, backbone.model_key(), picture=subject.sha256, caption=subject.caption, options=options
    )
    return cache_dir() / "fits" / f"{digest({'schema': SCHEMA, **key})}.safetensors"


def cached_fit(path: Path) -> Artifact | None:
    """Return the fit kept at `path`, None when there is none; a HiperWarning is issued for a damaged one."""
    if not path.exists():
        return None
    try:
        return Artifact.load(path)
    except ArtifactError as error:
        warnings.warn(f"a fit kept from an earlier run is not used: {error}", HiperWarning, stacklevel=2)
        return None
