"""What flow transformers share: straight lines between picture and noise, patches of 2 x 2 cells."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.base import FLOW_SCHEDULERS
from hiper.backbones.packing import PATCH
from hiper.backbones.pipeline import PipelineBackbone
from hiper.backbones.prediction import OPTION
from hiper.backbones.schedules import Schedule
from hiper.errors import BackboneError


class FlowBackbone(PipelineBackbone):
    """A transformer trained by flow matching. Subclasses are final."""

    schedulers = FLOW_SCHEDULERS
    wide_range: ClassVar[bool] = True

    def _make_schedule(self) -> Schedule:
        return _diffusers.flow_schedule(self._pipe, self.id)

    @classmethod
    def _state_prediction(cls, pipe: _diffusers.Pipeline, name: str, stated: str | None) -> None:
        if stated is not None:
            raise BackboneError(
                f"{name} is a {cls.pipeline_name}, which predicts a flow; leave out {OPTION}, which is for models"
                " of noise or v"
            )

    def _sigma(self, t: Tensor) -> Tensor:
        """Return the share of noise at the levels t [batch], float32: the timestep of most flow transformers.

        It is rounded nowhere but in the transformer: bfloat16 tells 257 of 1000 levels apart.
        """
        return self._schedule.sigma[self._put(t)]

    def _set_native(self, channels: int, side: int, factor: int) -> None:
        """Say what a native picture is: `side` cells of `factor` pixels, which are read in patches."""
        self.latent_shape = (channels, side, side)
        self.resolution = side * factor
        self.size_multiple = factor * PATCH
