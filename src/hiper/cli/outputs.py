"""Where pictures go and what they say of themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hiper import files
from hiper.errors import OutputError

if TYPE_CHECKING:
    from hiper.artifact import Artifact
    from hiper.editing import EditResult


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One sentence, and the file that each of its seeds is drawn to."""

    prompt: str
    paths: Mapping[int, Path]


@contextmanager
def reserved(
    out: Path, prompts: Sequence[str], seeds: Sequence[int], *, overwrite: bool
) -> Iterator[list[Drawing]]:
    """Yield a file <slug>-<seed>.png for every prompt and seed, locked against other processes meanwhile.

    OutputError now, before any work, if one of them exists and `overwrite` is false, or cannot be written.
    """
    make_folder(out)
    drawings = []
    with ExitStack() as locks:
        for prompt, slug in zip(prompts, _slugs(prompts), strict=True):
            locks.enter_context(files.lock(out / slug))
            paths = {seed: out / f"{slug}-{seed}.png" for seed in seeds}
            for path in paths.values():
                files.check_writable(path, overwrite=overwrite)
            drawings.append(Drawing(prompt=prompt, paths=paths))
        yield drawings


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, unless it is there; OutputError when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot create the folder {str(folder)!r}: {reason}; choose another") from error


def provenance(artifact: Artifact, result: EditResult, seed: int) -> dict[str, str]:
    """Return the text chunks of a PNG: all that is needed to draw it again, and no path of this computer."""
    settings = asdict(result.settings)
    record = {
        "prompt": result.prompt,
        "seed": seed,
        **settings,
        "caption": artifact.caption,
        "method": artifact.method,
        "family": artifact.family,
        "backbone": _without_path(artifact.backbone),
        "image_sha256": artifact.image_sha256,
        "versions": dict(artifact.versions),
    }
    return {"hiper": json.dumps(record)}


def _slugs(prompts: Sequence[str]) -> list[str]:
    """File name parts, all different, also where a file system does not tell A from a."""
    slugs: dict[str, str] = {}
    for prompt in prompts:
        slug = plain = files.safe_slug(prompt)
        number = 2
        while slug.casefold() in slugs:
            slug, number = f"{plain}-{number}", number + 1
        slugs[slug.casefold()] = slug
    return list(slugs.values())


def _without_path(backbone: str) -> str:
    """Keep a name or a Hub id as it is, of a folder or file only the last part."""
    is_public = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", backbone) and not Path(backbone).exists()
    return backbone if is_public else Path(backbone).name
