"""Where pictures go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hiper import files
from hiper.files import make_folder as make_folder


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
