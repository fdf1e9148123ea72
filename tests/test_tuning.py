"""The search for a model's own settings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import hiper
from hiper.analysis import tune
from hiper.analysis.tuning import RULES, SHORTEST
from hiper.backbones.sd import SdBackbone
from hiper.cli.tune import _known
from hiper.errors import FitError
from hiper.images import Subject
from hiper.methods import get_method
from tests import tiny
from tests.conftest import Cli

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Longer fits than twice the shortest are not tried."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hiper.analysis.tuning.LONGEST", 2 * SHORTEST)
        yield


@pytest.fixture(scope="module")
def searched(sd1: SdBackbone, subject: Subject) -> dict[str, Any]:
    seen: list[Mapping[str, float]] = []
    found = tune(sd1, subject, evaluations=8, on_try=lambda tries: seen.append(dict(tries)))
    return {"found": found, "seen": seen}


@pytest.mark.slow
def test_what_is_found_is_the_best_of_what_was_tried(searched: dict[str, Any]) -> None:
    found = searched["found"]
    tries = found.evidence["tries"]
    at_eight = {name: gain for name, gain in tries.items() if ", 8 evaluations" in name}
    best = max(at_eight, key=lambda name: at_eight[name])
    assert best.startswith(
        f"batch {found.options['batch']}, learning rate {found.options['learning_rate']:g},"
    )
    assert len(at_eight) >= 5
    assert found.options["num_train_steps"] * found.options["batch"] >= SHORTEST


@pytest.mark.slow
def test_a_fit_with_what_was_found_gains_what_was_said(
    searched: dict[str, Any], sd1: SdBackbone, subject: Subject, tmp_path: Path
) -> None:
    found = searched["found"]
    found.save(tmp_path / "own.json", overwrite=False)
    artifact = hiper.fit(sd1, subject, preset=str(tmp_path / "own.json"))
    gain = artifact.figures["loss_before"] - artifact.figures["loss_after"]
    assert gain == found.evidence["gain"] > 0
    assert {name: artifact.options[name] for name in RULES} == RULES


@pytest.mark.slow
def test_a_stopped_search_goes_on_without_a_fit_it_has_made(
    searched: dict[str, Any], sd1: SdBackbone, subject: Subject
) -> None:
    some = searched["seen"][2]
    anew: list[Mapping[str, float]] = []
    found = tune(sd1, subject, evaluations=8, known=some, on_try=lambda tries: anew.append(dict(tries)))
    assert found == searched["found"]
    assert len(anew) == len(searched["seen"]) - 3


def test_tries_of_another_job_are_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "own.json.tries"
    assert _known(path, {"image": "a"}) == {}
    path.write_text(json.dumps({"job": {"image": "a"}, "tries": {"one": 1.0}}))
    assert _known(path, {"image": "a"}) == {"one": 1.0}
    assert _known(path, {"image": "b"}) == {}


@pytest.mark.parametrize(
    "tries", ["", ', "tries": 3', ', "tries": ["a"]', ', "tries": {"a": null}', ', "tries": {"a": NaN}']
)
def test_damaged_tries_are_made_anew(tmp_path: Path, tries: str) -> None:
    path = tmp_path / "own.json.tries"
    path.write_text('{"job": {"image": "a"}' + tries + "}")
    assert _known(path, {"image": "a"}) == {}


@pytest.mark.slow
def test_a_model_that_learns_nothing_is_told(subject: Subject) -> None:
    pipe = tiny.pipeline()
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "attn2.to_out" in name:
                weight.zero_()
    with pytest.raises(FitError, match="no step size lowers the loss"):
        tune(SdBackbone.from_pipeline(pipe), subject, evaluations=4)


@pytest.mark.slow
def test_the_command_writes_what_fit_takes_by_name(
    cli: Cli, model_folder: Path, dog: Path, tmp_path: Path
) -> None:
    common = ["--caption", "a standing dog", "--backbone", model_folder]
    done = cli("tune", dog, *common, "--out", "mine", "--evaluations", "8", "--json")
    assert done.status == 0, done.err
    record = json.loads(done.out)
    assert list(Path(record["preset"]).parent.iterdir()) == [Path(record["preset"])]
    fitted = cli("fit", dog, *common, "--preset", "mine", "--out", tmp_path / "dog.safetensors", "--json")
    assert fitted.status == 0, fitted.err
    assert json.loads(fitted.out)["options"]["learning_rate"] == record["options"]["learning_rate"]
    refused = cli("tune", dog, *common, "--out", "paper")
    assert refused.status == 2
    assert "--out is 'paper', which is a preset of the method's own" in refused.err
    assert get_method("hiper").options("mine").as_mapping()["unit"] == "embedding_rms"
