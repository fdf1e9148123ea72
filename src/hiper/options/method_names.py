"""The methods by name: those of this package, and the entry points of the group "hiper.methods"."""

from __future__ import annotations

from importlib.metadata import entry_points

GROUP = "hiper.methods"


METHODS = {
    "ddim-inversion": "hiper.methods.ddim_inversion:DdimInversion",
    "dreambooth": "hiper.methods.dreambooth:Dreambooth",
    "dreambooth-lora": "hiper.methods.dreambooth_lora:DreamboothLora",
    "hiper": "hiper.methods.hiper:HiPer",
    "imagic": "hiper.methods.imagic:Imagic",
    "null-text": "hiper.methods.null_text:NullText",
    "sdedit": "hiper.methods.sdedit:Sdedit",
    "textual-inversion": "hiper.methods.textual_inversion:TextualInversion",
}


def method_names() -> list[str]:
    """Return the names of all installed methods, in alphabetical order."""
    return sorted({*METHODS, *(entry.name for entry in entry_points(group=GROUP))})
