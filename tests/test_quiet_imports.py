"""What libraries say of themselves while they are imported never reaches a user who did not ask for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_WITH_AVX512 = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "bitsandbytes.backends":
            import bitsandbytes.functional
            bitsandbytes.functional.has_avx512bf16 = lambda: True
sys.meta_path.insert(0, Finder())
sys.modules["kernels"] = None
"""
"""Lets bitsandbytes look for the kernel of newer processors on any, and not find it."""

_LOAD = """
import hiper
backbone = hiper.load_backbone("critters", device="cpu")
with backbone.adapter(1):
    pass
import bitsandbytes
assert bitsandbytes.functional.has_avx512bf16()
"""


@pytest.fixture
def python(tmp_path: Path) -> list[str]:
    (tmp_path / "sitecustomize.py").write_text(_WITH_AVX512)
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    return ["env", f"PYTHONPATH={path}", f"HIPER_CACHE={tmp_path / 'cache'}", sys.executable]


@pytest.mark.slow
def test_loading_a_model_in_python_prints_nothing(python: list[str]) -> None:
    """Neither the warning of a kernel, which the library itself really gives here, nor anything else."""
    printed = subprocess.run(
        [*python, "-c", "import bitsandbytes"], capture_output=True, text=True, check=True
    )
    assert "gemm_4bit_forward" in printed.stderr
    done = subprocess.run([*python, "-c", _LOAD], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
