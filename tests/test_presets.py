"""Presets: which one suits a model, and those in files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import hiper
from hiper.backbones.sd import SdBackbone
from hiper.errors import HiperWarning, OptionError
from hiper.images import Subject
from hiper.methods import PresetFile, get_method, suited, untuned
from hiper.options import current_names, method_names
from tests import tiny

FOUND: dict[str, Any] = {"num_train_steps": 7, "batch": 2, "learning_rate": 0.03, "unit": "embedding_rms"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    PresetFile(method="hiper", backbone="my/model", options=FOUND).save(path, overwrite=False)
    return path


def test_what_was_tuned_on_the_embedded_model_goes_to_no_other() -> None:
    method = get_method("hiper")
    assert method.options_for("critters") == method.options("default")
    elsewhere = method.options_for("my/model")
    paper = method.options("paper")
    assert elsewhere == method.options("published")
    assert {
        **elsewhere.as_mapping(),
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "scheduler": "ddim",
        "keep_source": 0.0,
    } == paper.as_mapping()


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_preset_for_other_models(name: str) -> None:
    method = get_method(name)
    assert suited("critters", method.presets) == "default"
    assert suited("my/model", method.presets) in ("published", "paper")
    target = {"target": "a cat"} if method.per_sentence else {}
    assert method.options_for("my/model", **target) == method.options(untuned(method.presets), **target)


@pytest.mark.slow
def test_a_fit_takes_the_models_own_preset(sd1: SdBackbone) -> None:
    subject = Subject.from_image(tiny.picture(), caption="a standing dog")
    assert hiper.fit(sd1, subject, num_train_steps=3).options["norm"] == "free"
    assert hiper.fit(sd1, subject, preset="default", num_train_steps=3).options["norm"] == "kept"


def test_a_file_is_a_preset(file: Path) -> None:
    options = get_method("hiper").options(str(file), num_train_steps=9).as_mapping()
    assert {name: options[name] for name in FOUND} == {**FOUND, "num_train_steps": 9}
    assert options["schedule"] == get_method("hiper").options("published").as_mapping()["schedule"]


def test_a_plain_name_lies_in_the_cache(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIPER_CACHE", str(tmp_path))
    (tmp_path / "presets").mkdir()
    file.rename(tmp_path / "presets" / "mine.json")
    assert get_method("hiper").options("mine").as_mapping()["num_train_steps"] == 7
    with pytest.raises(OptionError, match=r"preset is 'defualt'; allowed are .*did you mean default"):
        get_method("hiper").options("defualt")


def test_a_preset_of_another_model_is_told(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_method("hiper").options_for("my/model", str(file))
    with pytest.warns(HiperWarning, match="was tuned on my/model, not on critters"):
        get_method("hiper").options_for("critters", str(file))


def test_what_is_no_preset_is_told_in_a_line(file: Path, tmp_path: Path) -> None:
    method = get_method("hiper")
    record = json.loads(file.read_text())
    for damaged in (
        "",
        "[",
        "{}",
        "[1]",
        json.dumps({**record, "options": 3}),
        json.dumps({**record, "evidence": {"gain": float("nan")}}),
        json.dumps({**record, "more": 1}),
    ):
        file.write_text(damaged)
        with pytest.raises(OptionError, match="is damaged, or no preset; hiper tune writes one"):
            method.options(str(file))
    with pytest.raises(OptionError, match="cannot be read: No such file"):
        method.options(str(tmp_path / "none.json"))
    with pytest.raises(OptionError, match=r"allowed are a plain name, or a file that ends in \.json"):
        method.options("a/b")
    file.write_text(json.dumps({**record, "options": {"num_train_stepps": 3}}))
    with pytest.raises(OptionError, match=r"no option 'num_train_stepps'.*did you mean num_train_steps"):
        method.options(str(file))
    file.write_text(json.dumps(record))
    with pytest.raises(OptionError, match="is for method hiper, not sdedit"):
        get_method("sdedit").options(str(file))


def test_an_earlier_value_of_an_option_is_read_with_a_note() -> None:
    notes: list[str] = []
    assert current_names({"unit": "rows", "batch": 2}, {}, notes) == {"unit": "embedding_rms", "batch": 2}
    (note,) = notes
    assert "embedding_rms" in note
    with pytest.warns(HiperWarning, match="embedding_rms"):
        options = get_method("hiper").options("published", unit="rows")
    assert options.as_mapping()["unit"] == "embedding_rms"
