"""Import libraries, in a process of its own, because a broken library can kill its process.

    python -P -m hiper.analysis.doctor.probe torch,transformers torch transformers:CLIPTextModel ...

Prints one JSON object per line, as soon as it is known.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Collection, Mapping
from typing import Any


def probe(target: str, own: Collection[str]) -> dict[str, Any]:
    """Import a library.

    Args:
        target: `module` or `module:attribute`.
        own: Packages whose failure is their own; any other that was being imported is named as the culprit.

    Returns:
        The error, or None, and of torch its abilities.
    """
    module, _, attribute = target.partition(":")
    try:
        loaded = importlib.import_module(module)
        if attribute:
            getattr(loaded, attribute)
        facts = _abilities(loaded) if module == "torch" else {}
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what we came to learn
        return {"target": target, "error": in_one_line(deepest(error)), "culprit": _culprit(error, own)}
    return {"target": target, "error": None, **facts}


def _abilities(torch: Any) -> Mapping[str, object]:
    """Return which accelerator torch was built for, and whether that can be used here."""
    built = "cuda" if torch.version.cuda else "rocm" if torch.version.hip else "cpu"
    return {"built": built, "works": bool(torch.cuda.is_available())}


def deepest(error: BaseException) -> BaseException:
    """Return the cause, which libraries that import lazily hide behind errors of their own."""
    return _chain(error)[-1]


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error, its cause, that one's cause and so on."""
    errors = [error]
    while cause := errors[-1].__cause__ or (
        None if errors[-1].__suppress_context__ else errors[-1].__context__
    ):
        errors.append(cause)
    return errors


def in_one_line(error: BaseException) -> str:
    """Return what an error says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _culprit(error: BaseException, own: Collection[str]) -> str:
    """Return the package in which an import ended, "" for one of `own`: some import whatever else is installed."""
    names = [
        str(frame.f_globals.get("__name__")).partition(".")[0]
        for each in _chain(error)
        for frame, _ in traceback.walk_tb(each.__traceback__)
    ]
    known = {*sys.stdlib_module_names, *own, "__main__", "None", "hiper"}
    return next((name for name in reversed(names) if name not in known), "")


if __name__ == "__main__":
    packages, *tried = sys.argv[1:]
    for each in tried:
        print(json.dumps(probe(each, packages.split(","))), flush=True)
