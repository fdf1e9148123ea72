"""Checks of folders: room and the right to write for results and models, and the embedded models' files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from hiper.analysis.doctor.base import PIP, Finding
from hiper.backbones import EMBEDDED, check_weights, embedded_folder
from hiper.errors import BackboneError, OutputError
from hiper.files import cache_dir

SPACE_TO_WORK, SPACE_FOR_A_MODEL = 500_000_000, 8_000_000_000
"""Bytes: pictures, fits and weights put aside; a checkpoint of Stable Diffusion in two precisions."""


def places() -> Iterator[Finding]:
    """Check the room and the right to write for fits, models and offloaded weights."""
    try:
        yield _place("cache", cache_dir(), "HIPER_CACHE", SPACE_TO_WORK)
    except OutputError as error:
        yield Finding(
            level="problem", subject="cache", what=str(error), remedy='export HIPER_CACHE="$PWD/hiper-cache"'
        )
    try:
        yield _place("temporary files", Path(tempfile.gettempdir()), "TMPDIR", SPACE_TO_WORK)
    except FileNotFoundError as error:
        yield Finding(
            level="problem", subject="temporary files", what=str(error), remedy='export TMPDIR="$HOME/tmp"'
        )


def _place(subject: str, folder: Path, variable: str, needed: int) -> Finding:
    """Try to write in the folder, or where it would be made; nothing is left there."""
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    remedy = f'export {variable}="$HOME/another-folder"'
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"hiper")
    except OSError as error:
        what = f"{folder} cannot be written to: {error.strerror}"
        return Finding(
            level="problem", subject=subject, what=what, why="results are kept there", remedy=remedy
        )
    free = shutil.disk_usage(existing).free
    room = f"{folder}, {free / 1e9:.1f} GB free"
    if free >= needed:
        return Finding(level="ok", subject=subject, what=room)
    return Finding(
        level="problem" if free < SPACE_TO_WORK else "warning",
        subject=subject,
        what=room,
        why=f"about {needed / 1e9:.1f} GB are needed",
        remedy=remedy,
    )


def hub() -> Iterator[Finding]:
    """Check the cache of the Hub, whether it may be used, and whether there is a token; never show the token."""
    if find_spec("huggingface_hub") is None:
        return  # reported as a missing package
    from huggingface_hub import constants

    yield _place("models", Path(constants.HF_HUB_CACHE), "HF_HOME", SPACE_FOR_A_MODEL)
    if constants.HF_HUB_OFFLINE:
        yield Finding(
            level="note",
            subject="hub",
            what="offline by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE",
            why="models that are not in the cache cannot be fetched",
            remedy="unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE",
        )
    source = _token_source(Path(constants.HF_TOKEN_PATH))
    if source:
        yield Finding(level="ok", subject="hub token", what=f"from {source}")
    else:
        yield Finding(
            level="note",
            subject="hub token",
            what="none",
            why="gated models, such as FLUX.1 dev and Stable Diffusion 3, need one",
            remedy="hf auth login",
        )


def _token_source(path: Path) -> str:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            return name
    return str(path) if path.is_file() else ""


def embedded() -> Iterator[Finding]:
    """Check the files of the models that the package carries."""
    for name in EMBEDDED:
        yield model(name, embedded_folder(name))


def model(name: str, folder: Path) -> Finding:
    """Check the files of one of them, by their headers."""
    try:
        check_weights(folder)
    except BackboneError as error:
        return Finding(
            level="problem",
            subject=f"model {name}",
            what=str(error),
            why="the demo, the tests and the default of --backbone use it",
            remedy=f"{PIP} install --force-reinstall --no-deps hiper",
        )
    return Finding(level="ok", subject=f"model {name}", what="complete")
