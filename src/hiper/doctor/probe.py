"""Try what may break on import; run as a process of its own, because a broken library can take its process along.

    python -P -m hiper.doctor.probe torch transformers:CLIPTextModel ...

Prints one JSON object per line, as soon as it is known.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any


def probe(target: str) -> dict[str, Any]:
    """Import `module` or `module:attribute`; say what failed at the bottom of it, and of torch what it can do."""
    module, _, attribute = target.partition(":")
    try:
        loaded = importlib.import_module(module)
        if attribute:
            getattr(loaded, attribute)
        facts = _abilities(loaded) if module == "torch" else {}
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what we came to learn
        return {"target": target, "error": _deepest(error)}
    return {"target": target, "error": None, **facts}


def _abilities(torch: Any) -> Mapping[str, object]:
    """built: for which accelerator; works: whether that can be used here."""
    built = "cuda" if torch.version.cuda else "rocm" if torch.version.hip else "cpu"
    return {"built": built, "works": bool(torch.cuda.is_available())}


def _deepest(error: BaseException) -> str:
    """Libraries that import lazily hide the cause behind errors of their own."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(json.dumps(probe(each)), flush=True)
