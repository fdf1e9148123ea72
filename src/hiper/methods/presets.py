"""Presets from files, which `hiper tune` writes, and why a preset suits a model.

Settings tuned on one model say nothing of another: none goes to a model that it was not tuned on, unless the user
names it, and then a note says so.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hiper.backbones import EMBEDDED
from hiper.errors import HiperWarning, OptionError
from hiper.files import atomic_write, cache_dir, parse_json, read_text
from hiper.options import conforms

AUTO = "auto"
"""In the place of a preset's name: the one that suits the model."""

UNTUNED = ("published", "paper")
"""Presets for a model that a method was not tuned on; the first one that a method has counts."""

SCHEMA = 1
_MAX_BYTES = 1_000_000
ENDING = ".json"

EVIDENCE = {
    "default": "tuned on this model, and measured on subjects kept apart (docs/fewer-steps.md)",
    "published": "the paper's recipe; nobody has measured another one on this model (hiper tune does)",
}
"""Preset of method hiper -> why it is a model's own."""


@dataclass(frozen=True, kw_only=True)
class PresetFile:
    """Settings that were tuned.

    Attributes:
        method: For which.
        backbone: The name of the model that they were tuned on.
        options: Of the method.
        evidence: The figures behind them.
    """

    method: str
    backbone: str
    options: Mapping[str, Any]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path, *, overwrite: bool) -> None:
        """Write the file; OutputError as `atomic_write`."""
        record = {"hiper_preset": SCHEMA, **vars(self)}
        atomic_write(path, f"{json.dumps(record, indent=1)}\n".encode(), overwrite=overwrite)

    @classmethod
    def load(cls, path: Path) -> PresetFile:
        """Read what `save` wrote; OptionError for anything else."""
        try:
            record = parse_json(read_text(path, _MAX_BYTES))
        except OSError as error:
            raise OptionError(f"preset {str(path)!r} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError, OptionError) as error:
            raise _damaged(path) from error
        if not isinstance(record, dict) or record.pop("hiper_preset", None) != SCHEMA:
            raise _damaged(path)
        if not conforms(record, cls):
            raise _damaged(path)
        return cls(**record)


def suited(backbone: str, presets: Collection[str]) -> str:
    """Return the preset that suits a model of that name; one tuned on the embedded model suits no other."""
    return "default" if backbone in EMBEDDED else untuned(presets)


def untuned(presets: Collection[str]) -> str:
    """Return the preset for models that the method was not tuned on."""
    return next((name for name in UNTUNED if name in presets), "default")


def preset_path(name: str) -> Path:
    """Return the path of a preset: the one that is given, or the file of a plain name in hiper's cache folder.

    Args:
        name: A path that ends in .json, or a plain name.

    Raises:
        OptionError: The name is neither.
    """
    if name.endswith(ENDING):
        return Path(name)
    if Path(name).name != name:
        raise OptionError(f"preset is {name!r}; allowed are a plain name, or a file that ends in {ENDING}")
    return cache_dir() / "presets" / f"{name}{ENDING}"


def preset_file(name: str) -> PresetFile | None:
    """Read the preset of that name or path; None for a plain name that nobody has tuned."""
    path = preset_path(name)
    return PresetFile.load(path) if name.endswith(ENDING) or path.exists() else None


def tell_of_other_model(preset: str, backbone: str) -> None:
    """Warn (HiperWarning) when the preset of that name or path was tuned on another model than `backbone`."""
    found = preset_file(preset)
    if found is not None and found.backbone != backbone:
        warnings.warn(
            f"preset {preset!r} was tuned on {found.backbone}, not on {backbone}; hiper tune finds this model's own",
            HiperWarning,
            stacklevel=4,
        )


def _damaged(path: Path) -> OptionError:
    return OptionError(f"{str(path)!r} is damaged, or no preset; hiper tune writes one")
