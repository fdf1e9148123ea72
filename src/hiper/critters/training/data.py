"""The training pictures, rendered once into a memory-mapped array; a killed rendering goes on where it stopped."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
    chunks = [range(start, min(start + CHUNK, count)) for start in range(done, count, CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for seeds, chunk in zip(chunks, pool.map(_render_chunk, chunks), strict=True):
            array[seeds.start : seeds.stop] = chunk
            array.flush()
            progress.write_text(str(seeds.stop))
            print(f"pictures: {seeds.stop}/{count}", flush=True)
    return array


def _render_chunk(seeds: range) -> Pictures:
    return np.stack([np.asarray(render(draw_scene(seed))) for seed in seeds])
