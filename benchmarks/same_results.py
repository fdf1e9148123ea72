"""Hash what hiper computes and writes, so that two versions of the code can be compared bit for bit.

    python -m benchmarks.same_results --out before.json
    python -m benchmarks.same_results --against before.json     # in the changed checkout: 1 if anything differs

Every method on the embedded model; HiPer on a tiny checkpoint of every family; files and `--json` of the commands.
Dates, times taken and paths are left out. About four processor minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from tests import tiny, tiny_families

import hiper

METHODS: dict[str, dict[str, Any]] = {
    "ddim-inversion": {"num_inference_steps": 4},
    "dreambooth": {"num_train_steps": 2},
    "dreambooth-lora": {"num_train_steps": 2},
    "hiper": {"num_train_steps": 5},
    "imagic": {"target": "a sitting dog"},
    "null-text": {"num_inference_steps": 4},
    "sdedit": {},
    "textual-inversion": {"num_train_steps": 3},
}
VOLATILE = {"seconds", "created", "versions", "when", "fit_seconds", "bytes"}
CAPTION, SENTENCE = "a standing dog", "a sitting dog"


def main() -> int:
    """Record, or compare; 1 when anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path)
    where.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, digest in results(Path(folder)):
            found[name] = digest
            print(digest[:12], name, flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        return 0
    before = json.loads(arguments.against.read_text())
    differ = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
    print(f"{len(found) - len(differ)} the same; different: {', '.join(differ) or 'none'}")
    return bool(differ)


def results(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, hash) of everything."""
    picture = folder / "dog.png"
    tiny.picture(64).save(picture)
    subject = hiper.Subject.open(picture, caption=CAPTION)
    critters = hiper.load_backbone("critters", device="cpu")
    for method, options in METHODS.items():
        yield from _fitted(f"critters, {method}", critters, subject, method=method, **options)
    for family in tiny_families.FAMILIES:
        model = folder / family
        tiny_families.pipeline(family).save_pretrained(model)
        backbone = hiper.load_backbone(model, device="cpu", resolution=tiny_families.SIDE)
        yield from _fitted(family, backbone, hiper.Subject.open(picture, caption="a dog"), num_train_steps=2)
    yield from _commands(folder, picture)


def _fitted(name: str, backbone: Any, subject: hiper.Subject, **options: Any) -> Iterator[tuple[str, str]]:
    artifact = hiper.fit(backbone, subject, seed=3, **options)
    yield f"{name}: artifact", _artifact(artifact)
    for key, tensor in artifact.tensors.items():  # whatever the header calls them
        yield f"{name}: {key}", _sha(tensor.float().numpy().tobytes())
    sentence = SENTENCE if subject.caption == CAPTION else "a cat"
    steps = options.get("num_inference_steps", 4)
    for what, keep in (("new picture", 0.0), ("picture", None)):
        result = hiper.edit(backbone, artifact, sentence, seeds=[1], num_inference_steps=steps, keep=keep)
        yield f"{name}: {what}", _sha(result.images[0].tobytes())


def _commands(folder: Path, picture: Path) -> Iterator[tuple[str, str]]:
    out, tail = folder / "out", folder / "tail.safetensors"
    jobs = folder / "jobs.jsonl"
    jobs.write_text(json.dumps({"image": "dog.png", "caption": CAPTION, "sentences": [SENTENCE]}) + "\n")
    few = ["--option", "num_train_steps=3"]
    runs: dict[str, list[str]] = {
        "fit": ["fit", str(picture), "--caption", CAPTION, "--out", str(tail), *few],
        "edit": ["edit", str(tail), SENTENCE, "--out", str(out / "edit"), "--steps", "3"],
        "show": ["show", str(tail)],
        "run": [
            "run",
            str(picture),
            SENTENCE,
            "--caption",
            CAPTION,
            "--out",
            str(out / "run"),
            "--steps",
            "3",
            *few,
        ],
        "batch": ["batch", str(jobs), "--out", str(out / "batch"), *few],
        "bench": [
            "bench",
            "run",
            "critters",
            "--methods",
            "none",
            "--subjects",
            "1",
            "--out",
            str(out / "bench"),
        ],
        "methods": ["methods"],
        "backbones": ["backbones"],
        "export": ["export", str(tail), "--out", str(folder / "exported")],
    }
    for name, arguments in runs.items():
        done = _run([*arguments, "--json"] if name not in ("export",) else arguments, folder)
        yield f"{name}: stdout", _sha(json.dumps(_stable(done, folder), sort_keys=True).encode())
    for path in sorted(out.rglob("*")):
        if path.is_file():
            yield f"file {path.relative_to(out)}", _file(path, folder)


def _run(arguments: list[str], folder: Path) -> Any:
    environment = os.environ | {"HIPER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hiper", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return [done.returncode, json.loads(done.stdout)]
    except ValueError:
        return [done.returncode, done.stdout, done.stderr]


def _stable(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        kept = {key for key in value if key not in VOLATILE and "second" not in key}
        return {key: _stable(value[key], folder) for key in sorted(kept)}
    if isinstance(value, list):
        return [_stable(each, folder) for each in value]
    return value.replace(str(folder), "") if isinstance(value, str) else value


def _file(path: Path, folder: Path) -> str:
    if path.suffix == ".png":
        with Image.open(path) as image:
            return _sha(image.tobytes())
    if path.suffix == ".safetensors":
        return _artifact(hiper.Artifact.load(path))
    if path.suffix in (".json", ".jsonl"):
        text = path.read_text()
        value = (
            [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        )
        return _sha(json.dumps(_stable(value, folder), sort_keys=True).encode())
    return "present"


def _artifact(artifact: hiper.Artifact) -> str:
    figures = {name: value for name, value in artifact.figures.items() if "second" not in name}
    backbone = Path(artifact.backbone).name
    return _sha(replace(artifact, created="", figures=figures, versions={}, backbone=backbone).to_bytes())


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
