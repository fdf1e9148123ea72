"""Artifacts in folders and on the Hub, in the manner of diffusers' own loaders, which refuse them.

FOLDER/hiper.safetensors   a portable copy: no path of this computer, no thumbnail
FOLDER/README.md           the model card
FOLDER/pictures/*.png      what the card shows
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download

from hiper.artifacts.header import ArtifactHeader
from hiper.artifacts.model_card import CARD, model_card, picture_files
from hiper.artifacts.result import EditResult
from hiper.backbones import explained, hub_answers
from hiper.errors import ArtifactError, OutputError
from hiper.files import atomic_write, check_writable, make_folder
from hiper.images import png_bytes

WEIGHT_NAME = "hiper.safetensors"


def find_shared(
    path_or_repo: str | Path,
    *,
    weight_name: str,
    subfolder: str,
    revision: str | None,
    local_files_only: bool,
    **options: Any,
) -> Path:
    """Return the path of an artifact's file, from a folder or a Hub repository; see `Artifact.from_pretrained`."""
    place = Path(path_or_repo).expanduser()
    if place.is_file():
        return place
    if place.is_dir():
        return place / subfolder / weight_name
    repo, file = str(path_or_repo), "/".join(filter(None, (subfolder, weight_name)))
    missing = f"no {file}; name the file by weight_name and subfolder"
    with explained(repo, missing=missing, error=ArtifactError):
        found = hf_hub_download(
            repo,
            weight_name,
            subfolder=subfolder or None,
            revision=revision,
            **options,
            local_files_only=local_files_only or not hub_answers(repo, file, revision=revision),
        )
    return Path(found)


def save_shared(contents: Mapping[str, bytes], folder: str | Path, *, overwrite: bool) -> Path:
    """Write files, given as path to content, into a folder, and return it."""
    place = Path(folder)
    for path in (place, *sorted({(place / name).parent for name in contents})):
        make_folder(path, within=place)
    for name in contents:
        check_writable(place / name, overwrite=overwrite)
    for name, data in contents.items():
        atomic_write(place / name, data, overwrite=overwrite)
    return place


def push_shared(contents: Mapping[str, bytes], repo: str, *, private: bool, token: str | bool | None) -> str:
    """Upload files, given as path to content, in one commit, and return its address."""
    files = [CommitOperationAdd(name, data) for name, data in contents.items()]
    if not hub_answers():
        raise OutputError(
            f"{repo} cannot be sent: the Hub ({constants.ENDPOINT}) was not reached; try again later"
        )
    with explained(repo, missing="no such branch", error=OutputError):
        hub = HfApi(token=token)
        hub.create_repo(repo, private=private, exist_ok=True)
        return str(hub.create_commit(repo, files, commit_message="Artifact of hiper").commit_url)


def shared_files(
    shared: ArtifactHeader,
    data: bytes,
    results: Sequence[EditResult],
    *,
    license: str | None,  # noqa: A002
    embed: int | None,
) -> dict[str, bytes]:
    """Return every file of the folder; the card comes last, when what it shows is there."""
    pictures = {
        name: png_bytes(result.images[number]) for name, (result, number) in picture_files(results).items()
    }
    card = str(model_card(shared, results, license=license, embed=embed))
    return {WEIGHT_NAME: data, **pictures, CARD: card.encode()}
