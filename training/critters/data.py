"""The training pictures, and where their details are, each rendered once into a memory-mapped array.

A killed rendering goes on where it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops
from training.critters.recipe import SMALL

from hiper.critters import Scene, draw_animal, draw_scene, render

Pictures = NDArray[np.uint8]
CHUNK = 500
COUNTERPARTS = 7 * 10**9
"""Added to a seed: scenes that no other training, test or suite draws from."""


def pictures(folder: Path, count: int, size: int = SMALL) -> Pictures:
    """[count, size, size, 3] 8-bit pictures of the scenes 0 to count - 1, from ``folder/pictures.npy``."""
    make = partial(_render_chunk, draw_scene, size)
    return _stored(folder, _name("pictures", size), (count, size, size, 3), make)


def details(folder: Path, count: int, size: int = SMALL) -> Pictures:
    """[count, size, size, 2] where the animals and where their eyes and collars are, 0 to 255."""
    make = partial(_detail_chunk, draw_scene, size)
    return _stored(folder, _name("details", size), (count, size, size, 2), make)


def _name(kind: str, size: int) -> str:
    return kind if size == SMALL else f"{kind}-{size}"


def counterpart(seed: int) -> Scene:
    """The scene of another seed with this one's animal in it: the same identity, all else drawn anew."""
    scene, other = draw_scene(seed), draw_scene(COUNTERPARTS + seed)
    return replace(other, species=scene.species, identity=scene.identity)


def counterparts(folder: Path, count: int) -> Pictures:
    """[count, height, width, 3] 8-bit pictures of the counterparts of the scenes 0 to count - 1."""
    return _stored(
        folder, "counterparts", (count, SMALL, SMALL, 3), partial(_render_chunk, counterpart, SMALL)
    )


def counterpart_details(folder: Path, count: int) -> Pictures:
    """[count, height, width, 2], as `details`."""
    make = partial(_detail_chunk, counterpart, SMALL)
    return _stored(folder, "counterpart-details", (count, SMALL, SMALL, 2), make)


def _stored(folder: Path, name: str, shape: tuple[int, ...], make: Callable[[range], Pictures]) -> Pictures:
    path, progress = folder / f"{name}.npy", folder / f"{name}.done"
    done = int(progress.read_text()) if progress.exists() and path.exists() else 0
    array = np.lib.format.open_memmap(
        path, mode="r+" if done else "w+", dtype=np.uint8, shape=None if done else shape
    )
    chunks = [range(start, min(start + CHUNK, shape[0])) for start in range(done, shape[0], CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for seeds, chunk in zip(chunks, pool.map(make, chunks), strict=True):
            array[seeds.start : seeds.stop] = chunk
            array.flush()
            progress.write_text(str(seeds.stop))
            print(f"{name}: {seeds.stop}/{shape[0]}", flush=True)
    return array


def _render_chunk(scene: Callable[[int], Scene], size: int, seeds: range) -> Pictures:
    return np.stack([np.asarray(render(scene(seed), size)) for seed in seeds])


def _detail_chunk(scene: Callable[[int], Scene], size: int, seeds: range) -> Pictures:
    return np.stack([_details(scene(seed), size) for seed in seeds])


def _details(scene: Scene, size: int) -> Pictures:
    """Eyes and collar are where the animal changes when both are given another colour."""
    animal = draw_animal(scene, 2 * size)
    who = replace(
        scene.identity,
        eyes="blue" if scene.identity.eyes != "blue" else "brown",
        collar="red" if scene.identity.collar != "red" else "blue",
    )
    other = draw_animal(replace(scene, identity=who), 2 * size)
    changed = ImageChops.difference(animal.image, other.image).convert("L").point(lambda v: 255 if v else 0)
    return np.stack(
        [np.asarray(mask.resize((size, size), Image.Resampling.BOX)) for mask in (animal.mask, changed)], -1
    )
