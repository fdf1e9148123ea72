"""Which weight files of a component are loaded: those of one variant (fp16, bf16, none ...), whole or in shards."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hiper.errors import BackboneError

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_STEMS = {"diffusers": "diffusion_pytorch_model"}
_PREFERRED = ("", "fp16", "bf16")
_FILE = (  # model.safetensors, model.fp16.safetensors, model.fp16-00001-of-00002.safetensors, and shards' former names
    r"{stem}(?:\.(?P<variant>.+?))??(?P<shard>-\d{{5}}-of-\d{{5}}(?:\.(?P<former>.+))?)?\.safetensors"
)
_TABLE = r"{stem}\.safetensors(?:\.(?P<former>.+))?\.index(?:\.(?P<variant>.+))?\.json"


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """The files of one variant.

    Attributes:
        variant: Its name, "" for the plain files.
        table: The JSON file that says which shard holds which tensor; None where one file holds all.
        files: The file, or the shards by their names.
    """

    variant: str
    table: str | None
    files: tuple[str, ...]


def stem_of(library: str) -> str:
    """Return how a library names the weight files of its models: "model", or "diffusion_pytorch_model"."""
    return _STEMS.get(library, "model")


def find_variants(names: Collection[str], stem: str) -> dict[str, WeightFiles]:
    """Return the whole variants among the files of a component, by name, the one that is loaded first.

    Plain files come first, then fp16, bf16 and any others by their names. A variant is whole with its one file, or
    with a table of shards. Where both are there the one is taken that the library takes: transformers the file,
    diffusers the shards.
    """
    whole, tables = {}, {}
    shards: dict[str, list[str]] = {}
    for name in sorted(names):
        if found := re.fullmatch(_FILE.format(stem=stem), name):
            variant = found["variant"] or found["former"] or ""
            if found["shard"]:
                shards.setdefault(variant, []).append(name)
            else:
                whole[variant] = WeightFiles(variant=variant, table=None, files=(name,))
        elif found := re.fullmatch(_TABLE.format(stem=stem), name):
            tables[found["variant"] or found["former"] or ""] = name
    split = {
        variant: WeightFiles(variant=variant, table=table, files=tuple(shards.get(variant, ())))
        for variant, table in tables.items()
    }
    variants = split | whole if stem == "model" else whole | split
    return {each: variants[each] for each in sorted(variants, key=_rank)}


def _rank(variant: str) -> tuple[int, str]:
    return (_PREFERRED.index(variant) if variant in _PREFERRED else len(_PREFERRED), variant)


def choose_variant(names: Collection[str], library: str, where: str) -> WeightFiles:
    """Return the files to load of a component whose files are called `names`.

    Raises:
        BackboneError: There is no whole variant; it names what was found instead.
    """
    stem = stem_of(library)
    variants = find_variants(names, stem)
    if variants:
        return next(iter(variants.values()))
    pickles = sorted(name for name in names if name.lower().endswith(PICKLES))
    if pickles:
        raise BackboneError(
            f"{where} has only pickled weights ({pickles[0]}), which may run code; convert to safetensors"
        )
    others = sorted(name for name in names if ".safetensors" in name)
    found = f" (found: {', '.join(others[:5])})" if others else ""
    raise BackboneError(f"{where}/{stem}.safetensors is missing{found}; download the model again")


def library_of(index: Mapping[str, object], component: str) -> str:
    """Return the library that a model index names for a component."""
    entry = index.get(component)
    return str(entry[0]) if isinstance(entry, list) and entry else ""
