"""Let modules take turns in the memory of a device: what does not work is offloaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import final

import torch
from torch import nn

from hiper.backbones.offloading import Offloaded


@final
class ModelOffloader:
    """Modules of which only those in use lie in the device's memory. All are offloaded to begin with.

    Whoever is called stays until somebody else is: a loop over the denoiser moves nothing.
    """

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device) -> None:
        self._modules, self._device = dict(modules), device
        self._offloaded: dict[str, Offloaded] = {}
        self.load_only(())

    @property
    def away(self) -> Collection[str]:
        """Names of the modules that are offloaded."""
        return self._offloaded.keys()

    def load_only(self, names: Collection[str]) -> None:
        """Park all others, then bring these back, bit for bit."""
        for name in self._modules.keys() - set(names) - self._offloaded.keys():
            offloaded = Offloaded([self._modules[name]], self._device)
            offloaded.__enter__()
            self._offloaded[name] = offloaded
        for name in sorted(self._offloaded.keys() & set(names)):
            self._offloaded[name].restore()
            del self._offloaded[name]
