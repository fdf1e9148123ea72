"""What flow transformers share: straight lines between picture and noise, patches of 2 x 2 cells."""

from __future__ import annotations

from torch import Tensor

from hiper.backbones import _diffusers
from hiper.backbones.base import FLOW_SCHEDULERS
from hiper.backbones.packing import PATCH
from hiper.backbones.pipeline import PipelineBackbone
from hiper.backbones.schedules import Schedule


class FlowBackbone(PipelineBackbone):
    """A transformer trained by flow matching. Subclasses are final."""

    schedulers = FLOW_SCHEDULERS

    def _make_schedule(self) -> Schedule:
        return _diffusers.flow_schedule(self._pipe)

    def _sigma(self, t: Tensor) -> Tensor:
        """Share of noise at the levels t [batch]: the time that most flow transformers are told."""
        return self._schedule.sigma[self._put(t)].to(self.dtype)

    def _set_native(self, channels: int, side: int, factor: int) -> None:
        """Say what a native picture is: `side` cells of `factor` pixels, which are read in patches."""
        self.latent_shape = (channels, side, side)
        self.resolution = side * factor
        self.size_multiple = factor * PATCH
