"""Checks of libraries: whether they import, in a process of its own, and whether torch was built for the GPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from typing import Any

from packaging.version import Version

from hiper.analysis.doctor.base import PIP, Finding
from hiper.analysis.doctor.releases import requirements

IMPORTS = ("numpy", "PIL.Image", "torch", "transformers:CLIPTextModel", "diffusers:StableDiffusionPipeline")
SECONDS = 300.0
"""After which an import counts as hanging."""


def imports() -> Iterator[Finding]:
    """Import the libraries in a process of their own."""
    targets = [*IMPORTS, *(["torchvision"] if find_spec("torchvision") else [])]
    results = run_probe(targets)
    failed = [each for each in results if each["error"]]
    blamed = {each.get("culprit") or each["target"]: str(each["error"]) for each in reversed(failed)}
    fatal = {each.get("culprit") for each in failed if each["target"] in IMPORTS}
    for name, error in blamed.items():
        ours = name in IMPORTS or any(each.name == name for each in requirements(""))
        yield _broken_import(name, error) if ours else _broken_guest(name, error, is_fatal=name in fatal)
    yield from (
        Finding(level="ok", subject=each["target"], what="imports") for each in results if not each["error"]
    )
    yield from (
        accelerator(each, nvidia_gpus()) for each in results if each["target"] == "torch" and "built" in each
    )


def run_probe(targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return what `probe` tells of each target; the one that it dies or hangs at has an error of ours."""
    own = ",".join(target.partition(":")[0].partition(".")[0] for target in IMPORTS)
    command = [sys.executable, "-P", "-m", "hiper.analysis.doctor.probe", own, *targets]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)  # noqa: S603
        out, ending = done.stdout, f"Python died with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        out = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        ending = f"no end within {SECONDS:.0f} s"
    results: list[dict[str, Any]] = [
        json.loads(line) for line in out.splitlines() if line.startswith('{"target"')
    ]
    if len(results) < len(targets):
        results.append({"target": targets[len(results)], "error": ending})
    return results


def _broken_guest(module: str, error: str, *, is_fatal: bool) -> Finding:
    """Tell of what hiper does not need, and other libraries import all the same."""
    name = packages_distributions().get(module, [module])[0]
    return Finding(
        level="problem" if is_fatal else "warning",
        subject=module,
        what=f"cannot be imported, most likely made for another torch than {version('torch')}: {error}",
        why="transformers or diffusers import it wherever it is installed, and then cannot load any model; hiper needs"
        " none. Where something else does, such as ComfyUI, install both together, from one index",
        remedy=f"{PIP} uninstall --yes {name}",
    )


def _broken_import(target: str, error: str) -> Finding:
    module = target.partition(":")[0].partition(".")[0]
    name = {"PIL": "pillow"}.get(module, module)
    wanted = next(f"{each.name}{each.specifier}" for each in requirements("") if each.name == name)
    wanted = _same_release() if name == "torch" and find_spec("torch") else wanted
    return Finding(
        level="problem",
        subject=target,
        what=f"cannot be imported: {error}",
        why="nothing can be fitted or drawn without it",
        remedy=f'{PIP} install --force-reinstall "{wanted}"',
    )


def accelerator(torch: Mapping[str, Any], gpus: int) -> Finding:
    """Compare what torch was built for with the GPUs that the driver shows."""
    if not gpus or torch["works"]:
        return Finding(level="ok", subject="torch", what=f"built for {torch['built']}, {gpus} NVIDIA GPU")
    if torch["built"] == "cpu":
        return Finding(
            level="warning",
            subject="torch",
            what=f"built for the CPU alone, and the driver shows {gpus} NVIDIA GPU",
            why="a fit takes minutes instead of seconds",
            remedy=f'{PIP} install --force-reinstall "{_same_release()}"  # not from the index of CPU builds',
        )
    return Finding(
        level="warning",
        subject="torch",
        what=f"built for {torch['built']}, and cannot use the {gpus} NVIDIA GPU that the driver shows",
        why="mostly the driver is older than the CUDA release that torch was built with",
        remedy="nvidia-smi  # shows the driver's CUDA release; update the driver",
    )


def _same_release() -> str:
    """Return what asks for another build of the torch that is there, which its torchvision still fits."""
    return f"torch=={Version(version('torch')).public}"


def nvidia_gpus() -> int:
    """Return how many GPUs NVIDIA's driver shows; 0 without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=60)  # noqa: S603
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
