"""Where pictures go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hiper import files


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
    files.make_folder(out)
    drawings = []
    with ExitStack() as locks:
        for prompt, slug in zip(prompts, files.distinct_slugs(prompts), strict=True):
            locks.enter_context(files.lock(out / slug))
            paths = {seed: out / f"{slug}-{seed}.png" for seed in seeds}
            for path in paths.values():
                files.check_writable(path, overwrite=overwrite)
            drawings.append(Drawing(prompt=prompt, paths=paths))
        yield drawings
