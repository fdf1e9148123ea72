"""The public names: all there, and none paid for before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hiper


def test_every_public_name_exists() -> None:
    assert sorted(hiper.__all__) == [name for name in dir(hiper) if name in hiper.__all__]
    assert all(callable(getattr(hiper, name)) for name in hiper.__all__)


def test_an_unknown_name_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="editt"):
        _ = hiper.editt  # type: ignore[attr-defined]


def test_importing_takes_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys, hiper, hiper.backbones, hiper.methods; dir(hiper); "
        "sys.exit(bool({'torch', 'diffusers', 'transformers', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
