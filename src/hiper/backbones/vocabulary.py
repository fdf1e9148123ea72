"""Find the vocabulary of CLIP's tokenizer, which a single-file checkpoint does not carry.

Every Stable Diffusion 1.x, 2.x and XL model uses the same one, so any copy in the local cache will do.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from hiper.backbones.hub import explained, hub_answers
from hiper.errors import BackboneError

FILES = ("vocab.json", "merges.txt")
SOURCES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer/"),
    ("stabilityai/stable-diffusion-2-1-base", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
)


def copy_vocabulary(folder: Path, *, network: bool) -> None:
    """Copy vocab.json and merges.txt into `folder`, from the local cache or, if allowed, from the Hub."""
    for source in _cached() or _fetched(network=network):
        shutil.copyfile(source, folder / source.name)


def _cached() -> tuple[Path, ...]:
    for repository, prefix in SOURCES:
        found = [try_to_load_from_cache(repository, prefix + name) for name in FILES]
        paths = tuple(Path(path) for path in found if isinstance(path, str))
        if len(paths) == len(FILES):
            return paths
    return ()


def _fetched(*, network: bool) -> tuple[Path, ...]:
    repository = SOURCES[0][0]
    if not network:
        raise BackboneError(
            "a single-file checkpoint carries no vocabulary and CLIP's is not in the local cache; run"
            f" `hf download {repository} {' '.join(FILES)}` once while online, or allow the network"
            " (local_only=False)"
        )
    with explained(repository):
        here = not hub_answers(repository, FILES[0])
        return tuple(Path(hf_hub_download(repository, name, local_files_only=here)) for name in FILES)
