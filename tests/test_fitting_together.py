"""Several fits at a time come to what each comes to by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import hiper
from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.backbones.sd import SdBackbone
from hiper.errors import FitError, ImageError, Interrupted
from hiper.images import Subject
from hiper.methods import FitInput, HiPer, fit_all, get_method, losses_together, shared_by
from hiper.seeds import generator
from hiper.training import (
    Denoising,
    FitControl,
    FitResult,
    Outcome,
    TrainingConfig,
    TrainingTask,
    level_range,
    optimise,
    optimise_together,
)
from tests import tiny

QUICK: dict[str, Any] = {"num_train_steps": 5, "batch": 4}
CAPTIONS = ("a standing dog", "a red cat", "a blue dog on the grass")

pytestmark = pytest.mark.filterwarnings("ignore:the fit did not lower")


def subject(number: int) -> Subject:
    return Subject.from_image(tiny.picture().rotate(90 * number), caption=CAPTIONS[number])


def requests(*numbers: int, **options: Any) -> list[FitInput]:
    method = get_method("hiper")
    return [
        FitInput(subject=subject(i), options=method.options("default", seed=i, **{**QUICK, **options}))
        for i in numbers
    ]


def fitted(backbone: Backbone, some: Sequence[FitInput], slots: int) -> list[Artifact]:
    outcomes = fit_all(get_method("hiper"), backbone, some, slots=slots)
    return [outcome.result for outcome in outcomes if isinstance(outcome.result, Artifact)]


def rows(artifact: Artifact) -> Tensor:
    return artifact.tensors["tail"]


@pytest.mark.slow
def test_together_is_what_each_is_alone(backbone: SdBackbone) -> None:
    """But for rounding, which grows from step to step."""
    for i, artifact in enumerate(fitted(backbone, requests(0, 1, 2), 3)):
        alone = hiper.fit(backbone, subject(i), preset="default", seed=i, **QUICK)
        way = rows(alone) - backbone.encode(CAPTIONS[i]).token_embeddings[0, -5:]
        assert (rows(alone) - rows(artifact)).norm() < 1e-4 * way.norm()
        assert artifact.figures["loss_after"] == pytest.approx(alone.figures["loss_after"], rel=1e-6)
        same = ("caption", "seed", "options", "edit", "image_sha256", "fingerprint", "thumbnail")
        assert all(getattr(artifact, name) == getattr(alone, name) for name in same)


@pytest.mark.slow
def test_companions_and_order_change_no_bit(backbone: SdBackbone) -> None:
    whole = fitted(backbone, requests(0, 1, 2), 3)
    turned = fitted(backbone, requests(2, 0, 1), 3)
    assert [torch.equal(rows(a), rows(b)) for a, b in zip(whole, [*turned[1:], turned[0]], strict=True)] == [
        True
    ] * 3
    for i in range(3):
        assert torch.equal(rows(fitted(backbone, requests(i), 3)[0]), rows(whole[i]))


def prepared(backbone: Backbone, number: int) -> TrainingTask:
    """A turn with weights of its own, as a mask gives them."""
    random = generator(number)
    conditioning = backbone.encode(CAPTIONS[number])
    tail = conditioning.token_embeddings.clone().requires_grad_()
    objective = Denoising(
        backbone=backbone,
        latents=backbone.latents(tiny.picture(tiny.RESOLUTION).rotate(90 * number), random),
        conditioning=lambda parameters: replace(conditioning, token_embeddings=parameters["rows"]),
        batch=number + 1,
        bounds=level_range(0, 1, backbone.timesteps),
        sampling="stratified",
        weight=None if number else torch.rand(1, 1, *backbone.latent_shape[1:], generator=random),
    )
    config = TrainingConfig(steps=1, learning_rate=0.1)
    return TrainingTask(objective=objective, parameters={"rows": tail}, config=config, generator=random)


def test_every_loss_and_gradient_is_its_own(backbone: SdBackbone) -> None:
    """Also where the numbers of timesteps differ; and the random numbers are those of a single fit."""
    ours, theirs = ([prepared(backbone, i) for i in range(3)] for _ in range(2))
    with backbone.training_mode():
        losses = losses_together(ours, 5)
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        wanted = [each.objective.loss(each.parameters, each.generator) for each in theirs]
        torch.stack(wanted).sum().backward()  # type: ignore[no-untyped-call]
    for loss, expected, joint, single in zip(losses, wanted, ours, theirs, strict=True):
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        gradient, own = joint.parameters["rows"].grad, single.parameters["rows"].grad
        assert gradient is not None
        assert own is not None
        assert (gradient - own).norm() < 1e-4 * own.norm()
        assert torch.equal(joint.generator.get_state(), single.generator.get_state())


@pytest.mark.slow
def test_sentences_of_different_lengths_are_asked_in_calls_of_their_own(sd1: SdBackbone) -> None:
    some = [*requests(0, 1, placement="append", tail=3), *requests(2, placement="append", tail=5)]
    for i, artifact in enumerate(fitted(sd1, some, 4)):
        alone = hiper.fit(
            sd1, subject(i), preset="default", seed=i, **QUICK, placement="append", tail=5 if i == 2 else 3
        )
        assert (rows(alone) - rows(artifact)).norm() < 1e-3 * rows(alone).norm()


@pytest.mark.slow
def test_a_subject_that_fails_leaves_the_others_alone(sd1: SdBackbone) -> None:
    white = Image.new("L", (128, 64))
    white.paste(255, (0, 0, 8, 64))  # outside of the square that the model sees
    hopeless = Subject.from_image(tiny.picture(128).crop((0, 0, 128, 64)), caption="a dog", mask=white)
    long = Subject.from_image(tiny.picture(), caption="dog " * 80)
    some = requests(0, 1)
    some[1:1] = [replace(some[0], subject=hopeless), replace(some[0], subject=long)]
    outcomes = fit_all(get_method("hiper"), sd1, some, slots=4)
    assert isinstance(outcomes[1].result, ImageError)
    assert ["the tail overwrites" in "".join(outcome.notes) for outcome in outcomes] == [
        False,
        False,
        True,
        False,
    ]
    whole = fitted(sd1, requests(0, 1), 4)
    assert isinstance(outcomes[0].result, Artifact)
    assert isinstance(outcomes[3].result, Artifact)
    assert torch.equal(rows(outcomes[0].result), rows(whole[0]))
    assert torch.equal(rows(outcomes[3].result), rows(whole[1]))


def test_a_signal_stops_all(sd1: SdBackbone) -> None:
    for slots in (1, 2):
        with pytest.raises(Interrupted, match="signal 15"):
            fit_all(
                get_method("hiper"),
                sd1,
                requests(0, 1),
                slots=slots,
                control=FitControl(should_stop=lambda: 15),
            )


@pytest.mark.slow
def test_methods_that_share_no_step_fit_one_by_one(sd1: SdBackbone) -> None:
    alone = hiper.fit(sd1, subject(1), preset="default", seed=1, **QUICK)
    assert torch.equal(rows(fitted(sd1, requests(0, 1), 1)[1]), rows(alone))


# the loop itself, on bowls, where sharing a backward pass rounds nothing


class Bowl:
    """Squared distance to 1; its losses of the given numbers are not finite."""

    def __init__(self, *spoilt: int) -> None:
        self.spoilt, self.calls = spoilt, 0

    def loss(self, parameters: Mapping[str, Tensor], random: torch.Generator) -> Tensor:
        self.calls += 1
        loss = (parameters["x"] - 1 - 0.1 * torch.randn(3, generator=random)).square().mean()
        return loss * math.nan if self.calls in self.spoilt else loss

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        return float((parameters["x"].detach() - 1).square().mean())


def bowls(window: int) -> list[TrainingTask]:
    spoilt: list[Sequence[int]] = [(), (4,), range(6, 30), ()]
    return [
        TrainingTask(
            objective=Bowl(*some),
            parameters={"x": torch.tensor([3.0, -2.0, i], requires_grad=True)},
            config=TrainingConfig(steps=20, learning_rate=0.1 * (i + 1), schedule="cosine", log_every=window),
            generator=generator(i),
        )
        for i, some in enumerate(spoilt)
    ]


def alone(one: TrainingTask) -> FitResult | FitError:
    try:
        return optimise(one)
    except FitError as error:
        return error


@pytest.mark.parametrize("window", [1, 6])
def test_undoing_rates_and_failures_are_each_ones_own(window: int) -> None:
    def losses(tasks: Sequence[TrainingTask]) -> list[Tensor]:
        return [each.objective.loss(each.parameters, each.generator) for each in tasks]

    outcomes: list[Outcome[FitResult]] = optimise_together(bowls(window), losses)
    singles = [alone(one) for one in bowls(window)]
    for i, (outcome, single) in enumerate(zip(outcomes, singles, strict=True)):
        if i == 2:
            assert isinstance(outcome.result, FitError)
            assert str(outcome.result) == str(single)
            continue
        assert isinstance(outcome.result, FitResult)
        assert isinstance(single, FitResult)
        assert torch.equal(outcome.result.parameters["x"], single.parameters["x"])
        assert (outcome.result.loss_before, outcome.result.loss_after) == (
            single.loss_before,
            single.loss_after,
        )


def test_only_alike_options_go_together() -> None:
    method = HiPer()
    options = [
        method.options("paper", **some)
        for some in ({}, {"learning_rate": 0.1, "seed": 3}, {"num_train_steps": 9})
    ]
    assert shared_by(options[0]) == shared_by(options[1]) != shared_by(options[2])
