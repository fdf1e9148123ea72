"""Finding the learning rate, batch and length of a fit for a model, from one picture.

A setting is judged by the loss on pairs of noise and timestep held fixed: that of a single step says
nothing (DVAR, arXiv:2302.04841). It is the picture's own loss, so it says how well the subject is learnt, not how well
it can be edited; the token embeddings keep their norms meanwhile, which is what holds edits together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from hiper.backbones import Backbone
from hiper.errors import FitError
from hiper.images import Subject
from hiper.methods import HiPer, PresetFile
from hiper.training import FitControl, StopRequest

RULES: Mapping[str, object] = {
    "schedule": "constant",
    "keep": "mean",
    "sampling": "stratified",
    "unit": "embedding_rms",
    "norm": "kept",
    "t_min": 0.5,
}
"""What every try has: rules that have no scale of a model in them."""

START = 0.1
EVALUATIONS = 48
SHORTEST, LONGEST = 24, 1536
BATCHES = (1, 4)
ENOUGH = 0.1
"""A fit is long enough when one twice as long gains less than this share more."""


@dataclass(frozen=True, kw_only=True)
class Try:
    """One fit.

    Attributes:
        batch: Timesteps per step.
        learning_rate: Adam's.
        evaluations: Steps times batch.
        gain: By which it lowered the loss on the fixed batch; below 0 where it failed.
    """

    batch: int
    learning_rate: float
    evaluations: int
    gain: float


Tries = Mapping[str, float]
"""Name of a try to its gain."""


def tune(
    backbone: Backbone,
    subject: Subject,
    *,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    known: Tries | None = None,
    on_try: Callable[[Tries], None] = lambda tries: None,
    should_stop: StopRequest | None = None,
) -> PresetFile:
    """Search the learning rate, then the batch, then how long a fit must be.

    Args:
        backbone: The model.
        subject: To fit.
        evaluations: Steps times batch of the fits that search the learning rate.
        seed: Of all fits.
        known: What an earlier, stopped search had found.
        on_try: Called with all that is known after every fit.
        should_stop: Returns the number of a signal to stop by.

    Raises:
        FitError: No learning rate lowers the loss.
        Interrupted: `should_stop` said so.
    """
    search = _Search(backbone, subject, seed, dict(known or {}), on_try, should_stop)
    best = search.best_rate(evaluations)
    best = search.best_batch(best)
    best = search.long_enough(best)
    return PresetFile(
        method=HiPer.name,
        backbone=backbone.id,
        options={**RULES, **_changes(best)},
        evidence={"image": subject.sha256, "gain": best.gain, "tries": search.tries},
    )


@final
class _Search:
    """The tries made so far, each once."""

    def __init__(
        self,
        backbone: Backbone,
        subject: Subject,
        seed: int,
        tries: dict[str, float],
        on_try: Callable[[Tries], None],
        should_stop: StopRequest | None,
    ) -> None:
        self._backbone, self._subject, self._seed = backbone, subject, seed
        self.tries, self._on_try, self._control = tries, on_try, FitControl(should_stop=should_stop)

    def best_rate(self, evaluations: int) -> Try:
        """Go from the usual step size by factors of two, up and then down, as long as the gain grows."""
        best = self._made(1, START, evaluations)
        for factor in (2.0, 0.5):
            while (other := self._made(1, best.learning_rate * factor, evaluations)).gain > best.gain:
                best = other
        if best.gain <= 0:
            raise FitError("no step size lowers the loss on this picture; is the caption about it?")
        return best

    def best_batch(self, best: Try) -> Try:
        """Fewer steps of several timesteps each bear a larger step size, and may suit the device better."""
        steps = [(batch, best.learning_rate * factor) for batch in BATCHES[1:] for factor in (1.0, 2.0)]
        tries = [self._made(batch, rate, best.evaluations) for batch, rate in steps]
        return max([best, *tries], key=lambda each: each.gain)

    def long_enough(self, best: Try) -> Try:
        """Double the length until that gains little."""
        chosen = self._made(best.batch, best.learning_rate, SHORTEST)
        while chosen.evaluations < LONGEST:
            longer = self._made(best.batch, best.learning_rate, 2 * chosen.evaluations)
            if longer.gain <= (1 + ENOUGH) * chosen.gain:
                break
            chosen = longer
        return chosen

    def _made(self, batch: int, rate: float, evaluations: int) -> Try:
        name = f"batch {batch}, learning rate {rate:g}, {evaluations} evaluations"
        made = Try(batch=batch, learning_rate=rate, evaluations=evaluations, gain=self.tries.get(name, 0.0))
        if name not in self.tries:
            made = replace(made, gain=self._gain(made))
            self.tries[name] = made.gain
            self._on_try(self.tries)
        return made

    def _gain(self, made: Try) -> float:
        method = HiPer()
        options = method.options("published", **RULES, **_changes(made), seed=self._seed)
        try:
            figures = method.fit(self._backbone, self._subject, options, self._control).figures
        except FitError:
            return -1.0
        return figures["loss_before"] - figures["loss_after"]


def _changes(chosen: Try) -> dict[str, Any]:
    return {
        "num_train_steps": max(1, chosen.evaluations // chosen.batch),
        "batch": chosen.batch,
        "learning_rate": chosen.learning_rate,
    }
