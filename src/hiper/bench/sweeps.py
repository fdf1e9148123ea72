"""Ablations: one option of a method at a time, all others as in a base arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hiper.bench.arms import DRAWING, SOURCE_CAPTION, Arm, parse_arm
from hiper.bench.report import CEILING, FLOOR
from hiper.errors import OptionError
from hiper.options import check_choice

OWN_CAPTION = "right"
"""How a sweep over `source_caption` names the suite's own."""

PRESETS: Mapping[str, Sequence[str]] = {
    "paper": (
        "tail=1,2,3,5,8,10,20,40",
        "num_train_steps=25,50,100,200,400,800",
        "strength=0.4,0.6,0.8,1.0,1.2",
        "placement=replace,after-words,random,append",
        "init=caption,padding-mean,random,zeros",
        "source_caption=right,vague,wrong",
    ),
}
"""Name -> sweeps; `paper` is the ablation of arXiv:2303.08767, section 4.4, and what it leaves open."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One option, and the canonical text of the arm for each of its values, as they were written."""

    option: str
    arms: Mapping[str, str]


def parse_sweeps(over: Iterable[str], base: str) -> list[Sweep]:
    """Read sweeps.

    Args:
        over: Each `option=value,value,...`.
        base: The arm that all other options are of.

    Raises:
        OptionError: There is no sweep, an option is given twice, or `parse_arm` refuses an arm.
    """
    sweeps: dict[str, Sweep] = {}
    for text in over:
        sweep = _sweep(text, base)
        if sweep.option in sweeps:
            raise OptionError(f"--over {sweep.option} is given twice; give all its values at once")
        sweeps[sweep.option] = sweep
    if not sweeps:
        raise OptionError("nothing is swept over; give --over option=value,value,... or --preset paper")
    return list(sweeps.values())


def preset(name: str) -> Sequence[str]:
    """Return the sweeps of a preset; OptionError for an unknown one."""
    return PRESETS[check_choice("preset", name, PRESETS)]


def base_arm(text: str) -> Arm:
    """Read the arm that a sweep varies; OptionError for a baseline, which learns nothing."""
    arm = parse_arm(text)
    if arm.baseline is not None:
        raise OptionError(
            f"base is {text!r}, which is no method; give a method, such as hiper or hiper:paper"
        )
    return arm


def floor_arm(base: str) -> str:
    """Return the arm that draws the prompt alone in the way in which the base draws."""
    arm = base_arm(base)
    drawing = [f"{name}={arm.changes[name]}" for name in DRAWING if name in arm.changes]
    own_preset = "" if arm.preset == "default" else f":{arm.preset}"
    return parse_arm(",".join([f"{FLOOR}{own_preset}", *drawing])).text


def sweep_arms(sweeps: Sequence[Sweep], base: str, *, ceiling: bool) -> list[str]:
    """Return every arm of a run, each once: the floor, the ceiling where the suite has one, the base, the sweeps."""
    swept = (arm for sweep in sweeps for arm in sweep.arms.values())
    return list(
        dict.fromkeys([floor_arm(base), *([CEILING] if ceiling else []), base_arm(base).text, *swept])
    )


def _sweep(text: str, base: str) -> Sweep:
    option, equals, listed = text.partition("=")
    option = option.strip().replace("-", "_")
    values = list(dict.fromkeys(value.strip() for value in listed.split(",") if value.strip()))
    if not equals or not option or not values:
        raise OptionError(f"--over got {text!r}; write option=value,value,...")
    return Sweep(option=option, arms={value: _arm(base, option, value) for value in values})


def _arm(base: str, option: str, value: str) -> str:
    """Return the base with one option changed, whether or not it names it already."""
    head, *pairs = base.split(",")
    kept = [pair for pair in pairs if pair.partition("=")[0].strip().replace("-", "_") != option]
    own = option == SOURCE_CAPTION and value == OWN_CAPTION
    return parse_arm(",".join([head, *kept, *([] if own else [f"{option}={value}"])])).text
