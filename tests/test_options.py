"""Options: what is allowed, what is converted, and what is said of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import pytest

from hiper.backbones import Scheduler, _diffusers
from hiper.errors import OptionError
from hiper.methods import HiPer, HiPerOptions
from hiper.options import Spec, conforms, read_fields, specs


def test_the_paper_preset_is_the_paper() -> None:
    paper = HiPer().options("paper").as_mapping()
    assert paper == {
        "tail": 5,
        "num_train_steps": 1000,
        "batch": 1,
        "learning_rate": 5e-3,
        "schedule": "constant",
        "sampling": "uniform",
        "init": "caption",
        "unit": "numbers",
        "norm": "free",
        "t_min": 0.0,
        "t_max": 1.0,
        "keep": "last",
        "mask": True,
        "square": "crop",
        "source": True,
        "seed": 0,
        "strength": 0.8,
        "guidance_scale": 7.5,
        "num_inference_steps": 50,
        "scheduler": "ddim",
        "keep_source": 0.0,
    }


def test_values_replace_the_presets() -> None:
    options = HiPer().options("paper", num_train_steps=7, placement="append")
    assert (options.num_train_steps, options.placement, options.learning_rate) == (7, "append", 5e-3)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_train_steps", "12", 12),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", 1, 1.0),
        ("mask", "no", False),
        ("mask", "True", True),
        ("guidance_scale", "none", None),
        ("guidance_scale", "3.5", 3.5),
        ("sampling", "uniform", "uniform"),
    ],
)
def test_text_is_converted(name: str, text: Any, value: object) -> None:
    converted = getattr(HiPer().options(**{name: text}), name)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("tail", 0, "whole numbers from 1 to 64"),
        ("tail", 65, "whole numbers from 1 to 64"),
        ("tail", -5, "whole numbers from 1 to 64"),
        ("tail", 2.5, "whole numbers from 1 to 64"),
        ("tail", "2.5", "whole numbers from 1 to 64"),
        ("tail", True, "whole numbers from 1 to 64"),
        ("tail", None, "whole numbers from 1 to 64"),
        ("tail", "many", "whole numbers from 1 to 64"),
        ("num_train_steps", 0, "whole numbers from 1 to 1000000"),
        ("learning_rate", 0, "numbers from 1e-08 to 10"),
        ("learning_rate", math.nan, "numbers from 1e-08 to 10"),
        ("learning_rate", "nan", "numbers from 1e-08 to 10"),
        ("learning_rate", 1000, "numbers from 1e-08 to 10"),
        ("strength", math.inf, "numbers from -10 to 10"),
        ("strength", 10**400, "numbers from -10 to 10"),
        ("guidance_scale", -1, "numbers from 0 to 100"),
        ("t_max", 1.1, "numbers from 0 to 1"),
        ("placement", "prepend", "replace, append, after-words, random"),
        ("scheduler", "dimm", "ddim, dpm++, dpm++-karras, unipc, unipc-karras, euler, pndm, lcm, flow-euler"),
        ("mask", "maybe", "true and false"),
    ],
)
def test_what_is_not_allowed_is_refused(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(OptionError) as refusal:
        HiPer().options(**{name: value})
    assert str(refusal.value) == f"{name} is {value!r}; allowed are {allowed}"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"no option 'learningrate' \(did you mean learning_rate\?\)"):
        HiPer().options(learningrate=1e-3)
    with pytest.raises(OptionError, match=r"default, published, paper \(did you mean paper\?\)"):
        HiPer().options("papper")


def test_the_range_of_noise_must_not_be_empty() -> None:
    with pytest.raises(OptionError, match="t_min must be the smaller"):
        HiPer().options(t_min=0.5, t_max=0.5)


def test_every_option_says_what_it_does() -> None:
    assert all(spec.text for _, spec in specs(HiPerOptions).values())


def test_the_schedulers_that_may_be_named_exist() -> None:
    assert tuple(_diffusers.SCHEDULERS) == get_args(Scheduler)


@dataclass(frozen=True, kw_only=True)
class Entry:
    name: str
    seeds: Sequence[Annotated[int, Spec(low=0)]] = ()
    sizes: Mapping[str, float] | None = None


def test_a_table_is_read_into_a_dataclass() -> None:
    given: dict[str, Any] = {"name": "rex", "seeds": [0, 3], "sizes": {"head": 2}}
    assert read_fields(Entry, given) == Entry(**given)
    assert conforms(given, Entry)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "is 3; write a table of name, seeds, sizes"),
        ({"name": "rex", "seed": [1]}, r"no field 'seed' \(did you mean seeds\?\); allowed are name"),
        ({"seeds": [1]}, "no name is given"),
        ({"name": True}, "name is True; allowed are texts"),
        ({"name": "rex", "seeds": [-1]}, r"seeds is \[-1\]; allowed is a list of whole numbers from 0"),
        ({"name": "rex", "seeds": [True]}, r"seeds is \[True\]"),
        ({"name": "rex", "seeds": [2**63]}, "seeds is"),
        ({"name": "rex", "sizes": {"head": "2"}}, "sizes is .*; allowed is an object"),
    ],
)
def test_a_table_that_is_none_of_the_dataclass_is_refused(given: object, words: str) -> None:
    with pytest.raises(OptionError, match=words) as refusal:
        read_fields(Entry, given)
    assert "\n" not in str(refusal.value)
    assert not conforms(given, Entry)
