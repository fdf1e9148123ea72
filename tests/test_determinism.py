"""`deterministic` sets torch's switches while something runs, and puts every one of them back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from typer.main import get_command

import hiper
from hiper.backbones.sd import SdBackbone
from hiper.cli.app import app
from hiper.errors import OptionError
from hiper.images import Subject
from hiper.options import deterministic
from hiper.options.determinism import CUBLAS
from tests import tiny
from tests.conftest import Cli

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")


def switches() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark, os.environ.get(CUBLAS)


@pytest.fixture(params=[(0, False, False, None), (1, False, True, ":16:8")], ids=["plain", "a user's own"])
def before(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, ...]]:
    found, cudnn = switches(), torch.backends.cudnn
    mode, cudnn.deterministic, cudnn.benchmark, workspace = request.param
    torch.set_deterministic_debug_mode(mode)
    monkeypatch.delenv(CUBLAS, raising=False)
    if workspace is not None:
        monkeypatch.setenv(CUBLAS, workspace)
    yield switches()
    torch.set_deterministic_debug_mode(found[0])
    cudnn.deterministic, cudnn.benchmark = found[1:3]


def test_all_switches_are_set_and_put_back(before: tuple[Any, ...]) -> None:
    with deterministic():
        assert switches() == (2, True, False, before[3] or ":4096:8")
    assert switches() == before
    with pytest.raises(KeyError), deterministic():
        raise KeyError
    assert switches() == before
    with deterministic(wanted=False):
        assert switches() == before


def test_what_cannot_be_deterministic_is_told_in_one_line(before: tuple[Any, ...]) -> None:
    with pytest.raises(OptionError, match="max_unpooling2d") as refused, deterministic():
        F.max_unpool2d(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64), (2,))
    assert "\n" not in str(refused.value)
    assert switches() == before


@pytest.mark.slow
def test_a_fit_and_an_edit_run_with_it_and_come_to_the_same(sd1: SdBackbone, before: tuple[Any, ...]) -> None:
    subject = Subject.from_image(tiny.picture(), caption="a standing dog")
    seen: list[int] = []

    def look(*_: object) -> None:
        seen.append(torch.get_deterministic_debug_mode())

    artifact = hiper.fit(sd1, subject, num_train_steps=2, deterministic=True, callback=look)
    picture = hiper.edit(
        sd1, artifact, "a sitting dog", num_inference_steps=2, deterministic=True, callback=look
    )
    assert seen == [2] * 4
    assert switches() == before
    plain = hiper.fit(sd1, subject, num_train_steps=2)
    assert torch.equal(plain.tensors["tail"], artifact.tensors["tail"])
    again = hiper.edit(sd1, plain, "a sitting dog", num_inference_steps=2)
    assert again.images[0].tobytes() == picture.images[0].tobytes()


def test_a_deterministic_result_has_a_key_of_its_own(sd1: SdBackbone) -> None:
    key = sd1.model_key()
    with deterministic():
        assert sd1.model_key() == {**key, "deterministic": True}


def test_every_command_that_computes_offers_it() -> None:
    commands: dict[str, Any] = dict(vars(get_command(app))["commands"])
    commands |= {f"bench {name}": command for name, command in commands.pop("bench").commands.items()}
    offered = {
        name: {flag for option in getattr(command, "params", ()) for flag in option.opts}
        for name, command in commands.items()
    }
    computing = {name for name, flags in offered.items() if "--device" in flags} - {"import", "backbones"}
    assert computing >= {"fit", "edit", "run", "batch", "bench run", "sweep", "tune", "attention", "ui"}
    assert {name for name, flags in offered.items() if "--deterministic" in flags} == computing


@pytest.mark.slow
def test_the_commands_offer_it(
    cli: Cli, tmp_path: Path, model_folder: Path, dog: Path, before: tuple[Any, ...]
) -> None:
    model = ("--backbone", model_folder, "--device", "cpu")
    words = (
        *("run", dog, "a dog", "--caption", "a standing dog", *model, "-o", "num_train_steps=2"),
        *("--num-inference-steps", "1", "--json"),
    )
    plain = json.loads(cli(*words, "--out", tmp_path / "plain").out)
    strict = json.loads(cli(*words, "--deterministic", "--out", tmp_path / "strict").out)
    assert plain["artifact"] != strict["artifact"]
    tail = tmp_path / "dog.safetensors"
    fit = ("fit", dog, "--caption", "a standing dog", *model, "-o", "num_train_steps=2", "--out", tail)
    assert cli(*fit, "--deterministic").status == 0
    assert (
        cli(
            "edit",
            tail,
            "a dog",
            "--num-inference-steps",
            "1",
            *model,
            "--deterministic",
            "--out",
            tmp_path / "e",
        ).status
        == 0
    )
    (picture,) = (tmp_path / "e").glob("*.png")
    assert "--deterministic" in cli("rerun", "--help").out
    assert cli("rerun", picture, *model, "--deterministic").status == 0
    (tmp_path / "jobs.jsonl").write_text(
        json.dumps(
            {"image": str(dog), "caption": "a dog", "sentences": ["a cat"], "backbone": str(model_folder)}
        )
    )
    batch = (
        "batch",
        tmp_path / "jobs.jsonl",
        "--out",
        tmp_path / "out",
        "-o",
        "num_train_steps=1",
        "--device",
        "cpu",
    )
    assert cli(*batch, "--deterministic").status == 0
    (record,) = (tmp_path / "out").glob("jobs/*/record.json")
    assert json.loads(record.read_text())["model"]["key"]["deterministic"] is True
    assert switches() == before
