"""Everything that reads bytes or words from outside, as functions of what hypothesis draws and a folder."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hiper.artifacts import Artifact, import_reference
from hiper.backbones import Backbone, check_weights, read_header
from hiper.backbones.single_file import describe
from hiper.backbones.weights import check_components, read_index, weighted_components
from hiper.batch import Defaults, read_jobs
from hiper.bench import build_report, write_report
from hiper.bench.toml_suite import OwnSuite
from hiper.cli import main
from hiper.errors import ImageError
from hiper.images import open_image, png_bytes
from hiper.images.convert import open_mask
from hiper.inference import read_drawn
from hiper.inference.picture_settings import ARTIFACT, SETTINGS
from hiper.methods import get_method
from hiper.options import method_names, resolve, specs
from hiper.training import TrainingState
from tests import tiny
from tests.mutations import mutated

CORPUS = Path(__file__).parent / "corpus"

Target = Callable[[st.DataObject, Path], object]
"""One case: draws it, writes it below the folder if it is bytes, and reads it as hiper does."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    (
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "none",
        "true",
        "9" * 30,
        "1_0",
        "0x1",
        "٣",
        "",
        "a\0b",
        "../x",
        "--",
        "-o",
    )
) | st.text(max_size=12)


def of_bytes(corpus: str, name: str, read: Callable[[Path], object]) -> Target:
    """Read a damaged seed of the corpus, kept under a name of the reader's liking."""

    def target(data: st.DataObject, folder: Path) -> object:
        seeds = corpus_files(corpus)
        seed = data.draw(st.sampled_from(sorted(seeds)), label="seed")
        tape = data.draw(st.binary(max_size=37), label="tape")
        path = folder / name
        path.write_bytes(mutated(seeds[seed], tape, list(seeds.values())))
        return read(path)

    return target


@cache
def corpus_files(corpus: str) -> Mapping[str, bytes]:
    """Return the seeds of one reader by name."""
    return {path.name: path.read_bytes() for path in (CORPUS / corpus).iterdir()}


@cache
def backbone() -> Backbone:
    from hiper.backbones.sd import SdBackbone

    return SdBackbone.from_pipeline(tiny.pipeline("sd1"))


def _image(path: Path) -> None:
    try:
        open_image(path)
    except ImageError:
        open_image(path, allow_truncated=True, background="#123")


def _suite(path: Path) -> None:
    (path.parent / "rex.png").write_bytes(corpus_files("image")["rgb.png"])
    OwnSuite(path)


def _import(path: Path) -> None:
    import_reference(path, backbone=backbone(), caption="a dog")


def _report(path: Path) -> None:
    write_report(build_report(path.parent), path.parent, path.parent / "report", overwrite=True)


def _index(path: Path) -> None:
    index = read_index(path.parent)
    check_components(index, path.parent)
    weighted_components(index)


def _shards(path: Path) -> None:
    """The table of a model in several files, in a folder that is sound otherwise."""
    folder = path.parent
    (folder / "model_index.json").write_bytes(corpus_files("model")["model_index.json"])
    (folder / "unet").mkdir(exist_ok=True)
    (folder / "unet" / "a.safetensors").write_bytes(corpus_files("model")["single.safetensors"])
    path.replace(folder / "unet" / "model.safetensors.index.json")
    check_weights(folder)


def _single_file(path: Path) -> None:
    describe(path, read_header(path))


def _header(data: st.DataObject, folder: Path) -> None:
    """A file whose layout is sound and whose header says anything."""
    sound = corpus_files("artifact")["sound"]
    length = int.from_bytes(sound[:8], "little")
    table: dict[str, Any] = json.loads(sound[8 : 8 + length])
    for name in data.draw(st.lists(st.sampled_from(sorted(table["__metadata__"])), max_size=3)):
        table["__metadata__"][name] = data.draw(st.text(max_size=8) | JSON.map(json.dumps))
    if data.draw(st.booleans()):
        entry = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        table["hiper.tail"][entry] = data.draw(JSON)
    text = json.dumps(table).encode()
    path = folder / "tail.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + sound[8 + length :])
    Artifact.load(path).describe()


def _settings(data: st.DataObject, folder: Path) -> None:
    """A sound PNG whose text chunks say anything."""
    chunks = json.loads(corpus_files("settings")["chunks.json"])
    record = json.loads(chunks[SETTINGS])
    for name in data.draw(st.lists(st.sampled_from(sorted(record)), max_size=3)):
        record[name] = data.draw(JSON)
    chunks[SETTINGS] = data.draw(st.just(json.dumps(record)) | st.text(max_size=20))
    tape = data.draw(st.binary(max_size=13))
    chunks[ARTIFACT] = mutated(chunks[ARTIFACT].encode(), tape, [b""]).decode("latin-1")
    path = folder / "dog.png"
    path.write_bytes(png_bytes(tiny.picture(8), metadata=chunks))
    read_drawn(path)


def _options(data: st.DataObject, folder: Path) -> None:
    method = get_method(data.draw(st.sampled_from(method_names())))
    names = st.sampled_from([*specs(method.options_type), "stepz"])
    sound = st.sampled_from(("1", 1, 0.5, "0.5", "none", "ddim", "true"))
    values = data.draw(st.dictionaries(names, sound | WORDS | JSON, max_size=3))
    preset = data.draw(st.sampled_from([*method.presets] * 5 + ["papr"]))
    resolve(method.options_type, method.presets, preset, values)


def _arguments(data: st.DataObject, folder: Path) -> None:
    """Any words after a command whose file is missing: refused in one line, whatever they are."""
    command = data.draw(
        st.sampled_from(
            (["edit", "none.safetensors"], ["show"], ["fit", "none.png"], ["rerun", "none.png"], ["bench"])
        )
    )
    names = (
        "--num-inference-steps",
        "--seed",
        "--out",
        "--guidance-scale",
        "--images",
        "-o",
        "--caption",
        "--height",
        "--json",
    )
    words = data.draw(st.lists(st.sampled_from(names) | WORDS, max_size=6))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as printed:
        status = main([*command, "--device", "cpu", *words])
    assert status in (0, 2), (status, printed.getvalue())


def _jobs(data: st.DataObject, folder: Path) -> None:
    """Lines of sound and unsound entries, or damaged bytes; as JSON Lines or as CSV."""
    known = (
        "image",
        "caption",
        "name",
        "sentences",
        "seeds",
        "mask",
        "options",
        "edit",
        "backbone",
        "method",
        "preset",
    )
    entries = st.dictionaries(st.sampled_from(known), WORDS | JSON, max_size=4)
    line = {"image": "../x.png", "caption": "a dog", "sentences": ["a cat"], "seeds": [0]}
    lines = data.draw(
        st.lists(entries.map(lambda drawn: json.dumps({**line, **drawn})), min_size=1, max_size=3)
    )
    text = "\n".join(lines).encode()
    path = folder / data.draw(st.sampled_from(("jobs.jsonl", "jobs.csv")))
    if path.suffix == ".csv":
        text = b'image,caption,sentences,seeds,options.num_train_steps\n"a.png",a dog,a cat|b,1|2,3\n'
    path.write_bytes(mutated(text, data.draw(st.binary(max_size=19)), [text]))
    read_jobs(path, Defaults())


TARGETS: Mapping[str, Target] = {
    "artifact": of_bytes("artifact", "tail.safetensors", Artifact.load),
    "header": _header,
    "image": of_bytes("image", "picture", _image),
    "mask": of_bytes("image", "mask", open_mask),
    "settings": _settings,
    "drawn": of_bytes("settings", "dog.png", read_drawn),
    "suite": of_bytes("suite", "pets.toml", _suite),
    "import": of_bytes("import", "tail.pt", _import),
    "checkpoint": of_bytes("checkpoint", "dog.checkpoint", TrainingState.from_file),
    "report": of_bytes("record", "run.json", _report),
    "index": of_bytes("model", "model_index.json", _index),
    "shards": of_bytes("shards", "table.json", _shards),
    "single-file": of_bytes("model", "model.safetensors", _single_file),
    "jobs": _jobs,
    "options": _options,
    "arguments": _arguments,
}
