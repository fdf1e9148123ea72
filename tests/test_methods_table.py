"""The table of all methods: what a fit costs is counted from short ones, and what identity means."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from benchmarks.methods_table import counted, fit_of, fit_work, identity

from hiper.backbones import Backbone
from hiper.bench import CellResult, parse_arm
from tests.small_suite import SmallSuite

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower the loss")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arm",
    ["hiper,num_train_steps=5", "imagic,num_train_steps=3,weight_steps=4", "null-text,num_inference_steps=2"],
)
def test_short_fits_tell_the_flops_of_a_whole_one(sd1: Backbone, arm: str) -> None:
    case = SmallSuite(split="test", seed=0).cases("ann")[0]
    whole = counted(fit_of(parse_arm(arm), sd1, case))
    flops, peak = fit_work(parse_arm(arm), sd1, case)
    assert flops == whole.flops > 0
    assert peak == pytest.approx(whole.peak, rel=0.05)


def test_identity_is_the_share_of_what_can_be_told() -> None:
    other: dict[str, Any] = {each.name: None for each in fields(CellResult)}
    seen = {"primary": 1.0, "secondary": 0.0, "pattern": 1.0, "collar": None, "edit_success": 0.0}
    assert identity(CellResult(**{**other, "scores": seen})) == pytest.approx(2 / 3)
    assert identity(CellResult(**{**other, "scores": {"eyes": None}})) is None
