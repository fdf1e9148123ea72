"""Between a clean picture and pure noise: what the levels in between look like, and what a model says of them.

Timestep 0 is the cleanest, `timesteps` - 1 the noisiest; -1 stands for no noise at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from hiper.backbones.base import NoisySample


class Schedule(ABC):
    """Mixtures signal * picture + sigma * noise, and the target a model was trained on.

    Attributes:
        signal: [timesteps], float32, on the model's device.
        sigma: The same.
        objective: See `Backbone`.
    """

    objective: str

    def __init__(self, signal: Tensor, sigma: Tensor) -> None:
        self.signal, self.sigma = signal, sigma
        self.shares = list(zip(signal.tolist(), sigma.tolist(), strict=True))

    @property
    def timesteps(self) -> int:
        """Number of timesteps."""
        return len(self.signal)

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> NoisySample:
        """Bring latents [1 or batch, c, h, w] to the levels t [batch]; all on the schedule's device."""
        signal, sigma = self.signal[t][:, None, None, None], self.sigma[t][:, None, None, None]
        return NoisySample(
            noisy=signal * latents + sigma * noise, target=self._target(latents, noise, signal, sigma)
        )

    def step(self, noisy: Tensor, predicted: Tensor, t: int, to: int) -> Tensor:
        """See `Backbone.step`."""
        signal, sigma = self.signal[t], self.sigma[t]
        latents, noise = self._ends(noisy, predicted, signal, sigma)
        if to < 0:
            return latents
        return self.signal[to] * latents + self.sigma[to] * noise

    @abstractmethod
    def _target(self, latents: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor: ...

    @abstractmethod
    def _ends(self, noisy: Tensor, predicted: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the picture and the noise that a prediction speaks of."""


@final
class Epsilon(Schedule):
    """The model predicts the noise (DDPM, arXiv:2006.11239, eqs. 4 and 14)."""

    objective = "epsilon"

    def _target(self, latents: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        return noise

    def _ends(self, noisy: Tensor, predicted: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return (noisy - sigma * predicted) / signal, predicted


@final
class Velocity(Schedule):
    """The model predicts v = signal * noise - sigma * picture (arXiv:2202.00512, section 4)."""

    objective = "v_prediction"

    def _target(self, latents: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        return signal * noise - sigma * latents

    def _ends(self, noisy: Tensor, predicted: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return signal * noisy - sigma * predicted, sigma * noisy + signal * predicted


@final
class Flow(Schedule):
    """Straight lines: the model predicts noise - picture (rectified flow, arXiv:2209.03003, eq. 1).

    Level t has sigma = (t + 1) / timesteps; the shift of a sampler only decides where it looks, not what is there.
    """

    objective = "flow"

    def __init__(self, timesteps: int, device: torch.device) -> None:
        sigma = torch.arange(1, timesteps + 1, dtype=torch.float32, device=device) / timesteps
        super().__init__(1 - sigma, sigma)

    def _target(self, latents: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        return noise - latents

    def _ends(self, noisy: Tensor, predicted: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return noisy - sigma * predicted, noisy + signal * predicted
