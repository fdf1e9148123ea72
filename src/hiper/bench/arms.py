"""What is compared: methods with their options, and baselines that show where zero and full marks lie.

An arm is written NAME, NAME:PRESET or NAME:PRESET,option=value,...; its canonical text names its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hiper.bench.base import Suite
from hiper.errors import OptionError
from hiper.files import safe_slug
from hiper.methods import KEEP_SOURCE, get_method
from hiper.options import EARLIER_FIT, Value, check_choice, current_names, digest, method_names
from hiper.seeds import RANDOM

REFERENCE = "hiper"
"""The method whose fits the controls borrow, and whose way of drawing the other baselines share."""

SOURCE_CAPTION = "source_caption"
"""Option of an arm that is the suite's, not the method's: another caption to learn the source from."""

DRAWING = ("guidance_scale", "num_inference_steps", "scheduler", KEEP_SOURCE)
"""Options of the reference that also mean something where nothing is fitted."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """An arm that is no method. takes: which options of the reference it has."""

    text: str
    takes: Literal["none", "drawing", "all"]
    needs_truth: bool = False
    needs_others: bool = False


BASELINES: Mapping[str, Baseline] = {
    "none": Baseline(text="the target prompt alone (floor)", takes="drawing"),
    "truth": Baseline(text="the true answer through the VAE (ceiling)", takes="none", needs_truth=True),
    "spelled-out": Baseline(
        text="a sentence that spells the identity out", takes="drawing", needs_truth=True
    ),
    "source": Baseline(text="the source, unchanged", takes="none"),
    "other-tail": Baseline(text="what was learnt of the next subject", takes="all", needs_others=True),
    "random-tail": Baseline(text="random rows as long as the learnt ones", takes="all"),
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to draw a case's pictures.

    Attributes:
        name: Of a method or a baseline.
        preset: Of the method.
        changes: Options that differ from the preset's.
        options: All of them, resolved; empty for a baseline that takes none.
        source_caption: Which of a case's `other_captions` the source is learnt from; "" for its own.
    """

    name: str
    preset: str
    changes: Mapping[str, Value]
    options: Mapping[str, Value]
    source_caption: str = ""

    @property
    def text(self) -> str:
        """The canonical spelling: two arms that do the same have the same."""
        preset = "" if self.preset == "default" else f":{self.preset}"
        suites = {SOURCE_CAPTION: self.source_caption} if self.source_caption else {}
        pairs = {**self.changes, **suites}
        return ",".join([f"{self.name}{preset}", *(f"{key}={value}" for key, value in pairs.items())])

    @property
    def slug(self) -> str:
        """A name for its files, which no other arm has; a preset from a file is what it says at the time."""
        is_own = self.preset in get_method(self.method).presets
        if is_own and not self.changes and not self.source_caption:
            return safe_slug(self.text)
        whole = self.text if is_own else digest({"arm": self.text, "options": self.options})
        return f"{safe_slug(self.text, limit=60)}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"

    @property
    def baseline(self) -> Baseline | None:
        """What kind of yardstick it is; None for a method."""
        return BASELINES.get(self.name)

    @property
    def method(self) -> str:
        """The method whose options it has."""
        return self.name if self.baseline is None else REFERENCE

    def fitted(self) -> Arm:
        """Return the arm whose fits it draws with: a control borrows those of the reference.

        Options of an edit alone are left out: a sweep over the strength fits each subject once.
        """
        editing = get_method(self.method).editing
        changes = {name: value for name, value in self.changes.items() if name not in editing}
        return replace(
            _resolved(self.method, self.method, self.preset, changes), source_caption=self.source_caption
        )


def arm_names() -> list[str]:
    """Return every name an arm may have: methods first, then baselines."""
    return [*method_names(), *BASELINES]


def parse_arm(text: str) -> Arm:
    """Read one arm.

    Args:
        text: NAME, NAME:PRESET or NAME:PRESET,option=value,...

    Raises:
        OptionError: A name is unknown (with the nearest one), or a value is not allowed.
    """
    head, *pairs = text.split(",")
    name, colon, preset = head.strip().partition(":")
    check_choice("arm", name, arm_names())
    preset = preset if colon else "default"
    given = _pairs(text, pairs)
    source_caption = str(given.pop(SOURCE_CAPTION, ""))
    baseline = BASELINES.get(name)
    if baseline is not None:
        _check_taken(text, baseline, preset, given, source_caption)
        if baseline.takes == "none":
            return Arm(name=name, preset="default", changes={}, options={})
    arm = _resolved(name, REFERENCE if baseline else name, preset, given)
    if baseline is not None and baseline.takes == "drawing":
        drawing = {key: arm.options[key] for key in DRAWING if key in arm.options}
        changes = {key: value for key, value in arm.changes.items() if key != KEEP_SOURCE}
        if KEEP_SOURCE not in given:
            drawing[KEEP_SOURCE] = 0.0
        if drawing[KEEP_SOURCE]:  # by default the floor is a new picture, whatever the reference does
            changes[KEEP_SOURCE] = drawing[KEEP_SOURCE]
        return replace(arm, options=drawing, changes=changes)
    return replace(arm, source_caption=source_caption)


def parse_arms(texts: Iterable[str]) -> list[Arm]:
    """Read arms, each once; OptionError if there is none."""
    arms = {arm.text: arm for arm in map(parse_arm, texts)}
    if not arms:
        raise OptionError(f"no arm is given; name one or more of {', '.join(arm_names())}")
    return list(arms.values())


def check_suite(arms: Sequence[Arm], suite: Suite) -> None:
    """Check that the suite has what the arms need.

    Raises:
        OptionError: It lacks true answers, a second subject, or other captions.
    """
    subjects = suite.subjects()
    cases = suite.cases(subjects[0])
    has_truth = all(case.truth is not None for case in cases)
    for arm in arms:
        if arm.source_caption not in ("", *cases[0].other_captions):
            known = ", ".join(cases[0].other_captions) or "none"
            raise OptionError(
                f"{SOURCE_CAPTION} is {arm.source_caption!r}; other captions that this suite knows: {known}"
            )
        if arm.baseline and arm.baseline.needs_truth and not has_truth:
            raise OptionError(
                f"arm {arm.text} needs the true answers, which this suite does not know; leave it out"
            )
        if arm.baseline and arm.baseline.needs_others and len(subjects) < 2:
            raise OptionError(f"arm {arm.text} needs two subjects or more, the suite has one; leave it out")


def _pairs(text: str, pairs: Sequence[str]) -> dict[str, object]:
    given: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or name in given:
            problem = "is given twice" if name in given else "has no value"
            raise OptionError(f"arm {text!r}: {pair.strip()!r} {problem}; write NAME:PRESET,option=value,...")
        given[name] = value.strip()
    return given


def _check_taken(
    text: str, baseline: Baseline, preset: str, given: Mapping[str, object], source_caption: str
) -> None:
    if source_caption and baseline.takes != "all":
        raise OptionError(f"arm {text!r} fits nothing, so no caption matters; leave {SOURCE_CAPTION} away")
    if baseline.takes == "none" and (given or preset != "default"):
        raise OptionError(f"arm {text!r} takes no preset and no options; leave them away")
    named = current_names(given, EARLIER_FIT)
    strangers = [name for name in named if baseline.takes == "drawing" and name not in DRAWING]
    if strangers:
        raise OptionError(
            f"arm {text!r} fits nothing and takes no option {strangers[0]!r}; allowed are {', '.join(DRAWING)}"
        )


def _resolved(name: str, method: str, preset: str, given: Mapping[str, object]) -> Arm:
    chosen = get_method(method)
    plain = chosen.options(preset).as_mapping()
    options = chosen.options(preset, **given).as_mapping()
    if options.get("seed") == RANDOM:
        raise OptionError(f"arm {name} has seed={RANDOM}, a random one; a benchmark needs one from 0 upwards")
    changed = {**options, **{key: "none" for key in plain if key not in options}}
    changes = {key: changed[key] for key in sorted(changed) if changed[key] != plain.get(key)}
    return Arm(name=name, preset=preset, changes=changes, options=options)
