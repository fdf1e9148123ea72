"""The training pictures, rendered once into a memory-mapped array; a killed rendering goes on where it stopped."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hiper.critters.render import SIZE, render
from hiper.critters.world import draw_scene

Pictures = NDArray[np.uint8]
CHUNK = 500


def pictures(folder: Path, count: int) -> Pictures:
    """[count, height, width, 3] 8-bit pictures of the scenes 0 to count - 1, from ``folder/pictures.npy``."""
    path, progress = folder / "pictures.npy", folder / "pictures.done"
    shape = (count, SIZE, SIZE, 3)
    done = int(progress.read_text()) if progress.exists() and path.exists() else 0
    array = np.lib.format.open_memmap(
        path, mode="r+" if done else "w+", dtype=np.uint8, shape=None if done else shape
    )
    starts = range(done, count, CHUNK)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for start, chunk in zip(starts, pool.map(_render_chunk, starts), strict=True):
            stop = min(start + CHUNK, count)
            array[start:stop] = chunk[: stop - start]
            array.flush()
            progress.write_text(str(stop))
            print(f"pictures: {stop}/{count}", flush=True)
    return array


def _render_chunk(start: int) -> Pictures:
    return np.stack([np.asarray(render(draw_scene(seed))) for seed in range(start, start + CHUNK)])
