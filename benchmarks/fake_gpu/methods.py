"""Every method on every family in miniature, on a GPU that is not there: what may not meet there is refused.

    python -m benchmarks.fake_gpu.methods [--families sdxl pixart] [--dtypes float16] [--memory low] [--methods imagic]

The whole product of what can be chosen: each pair of method and family is fitted and draws a picture, in both halves of
float32, with all parts on the GPU and in turn. Eight minutes of one core; `tests/test_fake_gpu.py` tries every pair of
two of these once. Exit status 1 where something failed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
import warnings
from itertools import product
from typing import Any

import PIL.Image
import torch
from benchmarks.fake_gpu.placed import fake_gpu
from benchmarks.full_size_models import as_loaded
from tests import tiny, tiny_families

import hiper
from hiper.backbones import Loading, backbone_class
from hiper.methods import get_method
from hiper.options import method_names

GPU = torch.device("cuda", 0)
FAMILIES = ("sd1", "sd2", *tiny_families.FAMILIES)
DTYPES, MEMORY = ("bfloat16", "float16"), ("balanced", "low")
CAPTION, SENTENCE = "a standing dog", "a sitting dog"


def load(family: str, memory: str = "low", dtype: torch.dtype = torch.bfloat16) -> Any:
    """Bring a family in miniature to the GPU, as `load_backbone` does with a checkpoint."""
    pipe: Any = tiny.pipeline(family) if family in ("sd1", "sd2") else tiny_families.pipeline(family)  # type: ignore[arg-type]
    how = Loading(device=GPU, dtype=dtype, memory=memory, recompute=memory == "low")
    kind = backbone_class(type(pipe).__name__, family)
    backbone = kind._resolved(as_loaded(pipe, dtype), how, name=family, revision="", guidance_scale=None)
    backbone.resize(tiny_families.SIDE)
    return backbone


def subject() -> hiper.Subject:
    """A picture and its caption."""
    return hiper.Subject.from_image(tiny.picture(), caption=CAPTION)


def possible(backbone: Any) -> list[str]:
    """Return the methods that the model offers, loaded as it is."""
    return [
        name
        for name in method_names()
        if get_method(name).requires <= backbone.capabilities
        and not (
            name == "textual-inversion" and backbone.takes_turns
        )  # learns through both of what takes turns
    ]


def tried(backbone: Any, method: str) -> tuple[hiper.Artifact, PIL.Image.Image]:
    """Fit one step and draw one picture."""
    artifact = hiper.fit(backbone, subject(), method=method, **tiny.ONE_STEP[method])
    return artifact, hiper.edit(backbone, artifact, SENTENCE, seeds=[0]).images[0]


def main() -> int:
    """Try what is asked for; say what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--memory", nargs="+", choices=MEMORY, default=MEMORY)
    parser.add_argument("--methods", nargs="+", choices=method_names(), default=method_names())
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    failed = 0
    for family, dtype, memory in product(given.families, given.dtypes, given.memory):
        with fake_gpu():
            backbone = load(family, memory, getattr(torch, dtype))
            for method in sorted(set(given.methods) & set(possible(backbone))):
                begun, outcome = time.process_time(), "ok"
                try:
                    tried(backbone, method)
                except Exception as error:  # noqa: BLE001  # the others are tried all the same
                    failed, outcome = failed + 1, f"{type(error).__name__}: {error}"
                    traceback.print_exc()
                seconds = time.process_time() - begun
                print(f"{family} {dtype} {memory} {method} {seconds:.1f} s: {outcome}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
