"""Every method from the command line, as its user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
from PIL import Image

from hiper.artifacts import Artifact
from tests import tiny
from tests.conftest import Cli
from tests.test_methods_contract import CAPTION, QUICK, SENTENCE

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")


def options(method: str) -> list[str]:
    return [word for name, value in QUICK[method].items() for word in ("-o", name, str(value))]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dreambooth", "imagic", "null-text"])
def test_fit_and_edit(cli: Cli, model_folder: Path, dog: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "dog.safetensors"
    done = cli(
        *("fit", dog, "--caption", CAPTION, "--out", out, "--backbone", model_folder),
        *("--method", method, "--quiet", "--device", "cpu"),
        *options(method),
    )
    assert (done.status, done.err) == (0, "")
    assert not list(tmp_path.glob("*checkpoint*"))
    assert Artifact.load(out).method == method
    assert method in cli("show", out).out
    drawn = cli("edit", out, SENTENCE, "--out", tmp_path / "edits", "--quiet", "--device", "cpu")
    assert (drawn.status, drawn.err) == (0, "")
    (file,) = (tmp_path / "edits").glob("*.png")
    with Image.open(file) as image:
        assert image.size == (tiny.RESOLUTION, tiny.RESOLUTION)


@pytest.mark.slow
def test_a_run_fits_once_and_imagic_takes_its_sentence_for_the_target(
    cli: Cli, model_folder: Path, dog: Path, tmp_path: Path
) -> None:
    own = options("imagic")
    del own[own.index("target") - 1 :]
    for number, reused in enumerate(("false", "true")):
        done = cli(
            *("run", dog, SENTENCE, "--caption", CAPTION, "--out", tmp_path / str(number), "--json"),
            *("--backbone", model_folder, "--method", "imagic", "--device", "cpu"),
            *own,
        )
        assert done.status == 0, done.err
        assert f'"reused": {reused}' in done.out
    first, second = (next((tmp_path / name).glob("*.png")).read_bytes() for name in "01")
    assert first == second


@pytest.mark.slow
def test_imagic_fits_for_one_sentence(cli: Cli, dog: Path, tmp_path: Path) -> None:
    done = cli(
        *("run", dog, "a red dog", SENTENCE, "--caption", CAPTION, "--out", tmp_path, "--method", "imagic")
    )
    assert done.status == 2
    assert "needs a fit for each sentence, and 2 are given" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["textual-inversion", "dreambooth-lora", "hiper"])
def test_export(cli: Cli, model_folder: Path, dog: Path, tmp_path: Path, method: str) -> None:
    file, out = tmp_path / "dog.safetensors", tmp_path / "for-diffusers.safetensors"
    made = cli(
        *("fit", dog, "--caption", CAPTION, "--out", file, "--backbone", model_folder, "--quiet"),
        *("--method", method, "--device", "cpu", "-o", "num_train_steps", "1", "-o", "batch", "1"),
    )
    assert made.status == 0, made.err
    done = cli("export", file, "--out", out)
    if method == "hiper":
        assert done.status == 2
        assert "has no file format of diffusers" in done.err
        assert not out.exists()
        return
    assert done.status == 0, done.err
    names = safetensors.torch.load_file(out).keys()
    assert names == {"<subject>"} if method == "textual-inversion" else all("lora_" in name for name in names)
