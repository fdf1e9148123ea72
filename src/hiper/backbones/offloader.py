"""Let modules take turns in the memory of a device: what does not work is parked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import final

import torch
from torch import nn

from hiper.backbones.offloading import Offloaded


@final
class ModelOffloader:
    """Modules of which only those in use lie in the device's memory. All are parked to begin with.

    Whoever is called stays until somebody else is: a loop over the denoiser moves nothing.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device) -> None:
        self._modules, self._device = dict(modules), device
        self._parked: dict[str, Offloaded] = {}
        self.take(())

    @property
    def away(self) -> Collection[str]:
        """Names of the modules that are parked."""
        return self._parked.keys()

    def take(self, names: Collection[str]) -> None:
        """Park all others, then bring these back, bit for bit."""
        for name in self._modules.keys() - set(names) - self._parked.keys():
            offloaded = Offloaded([self._modules[name]], self._device)
            offloaded.__enter__()
            self._parked[name] = offloaded
        for name in sorted(self._parked.keys() & set(names)):
            self._parked[name].restore()
            del self._parked[name]
