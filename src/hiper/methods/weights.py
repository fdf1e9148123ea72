"""Other weights for a denoiser, for as long as a block or a call lasts: its own are never written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hiper.artifacts import Artifact
from hiper.backbones import Backbone
from hiper.errors import ArtifactError
from hiper.training import Objective


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Return a float32 copy of every weight, by name, that asks for a gradient."""
    return {
        name: weight.detach().to(torch.float32, copy=True).requires_grad_()
        for name, weight in module.named_parameters()
    }


@final
@dataclass(frozen=True, kw_only=True)
class OverWeights:
    """An objective as a function of a module's weights instead of what it is a function of itself.

    The module computes with the parameters, in its own dtype, and gradients flow to them in float32.
    """

    module: nn.Module
    inner: Objective

    def loss(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """See `Objective`."""
        return _computed(self.module, parameters, lambda: self.inner.loss({}, generator))

    def evaluate(self, parameters: Mapping[str, Tensor]) -> float:
        """See `Objective`."""
        with torch.no_grad():
            value = _computed(
                self.module, parameters, lambda: torch.tensor(self.inner.evaluate({}), dtype=torch.float64)
            )
        return float(value)


@contextmanager
def swapped_weights(backbone: Backbone, artifact: Artifact, strength: float) -> Iterator[None]:
    """Let the denoiser have an artifact's weights while the block runs.

    Args:
        backbone: The model.
        artifact: Its tensors are named by the denoiser's name, a dot and the weight's.
        strength: own + strength * (theirs - own): 1 takes theirs, 0 its own.

    Raises:
        ArtifactError: Its tensors have other shapes.
    """
    own = dict(backbone.denoiser.named_parameters())
    learnt = of_denoiser(backbone, artifact.tensors)
    _check_shapes(backbone, learnt, own)
    kept = {name: own[name].data for name in learnt}
    try:
        for name, theirs in learnt.items():
            ours = kept[name].float()
            mixed = torch.lerp(ours, theirs.to(ours.device), strength) if strength != 1 else theirs
            own[name].data = torch.empty_like(kept[name]).copy_(mixed)
        yield
    finally:
        own = dict(
            backbone.denoiser.named_parameters()
        )  # in memory again: what is brought back later is its own
        for name, weight in kept.items():
            own[name].data = weight


def of_denoiser(backbone: Backbone, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that belong to the denoiser, by their names in it."""
    prefix = f"{backbone.denoiser_name}."
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def named(backbone: Backbone, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the denoiser by the names that an artifact has for them."""
    return {f"{backbone.denoiser_name}.{name}": weight for name, weight in weights.items()}


@final
class _Host(nn.Module):
    """Holds a module while something that knows the module itself is computed."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, work: Callable[[], Tensor]) -> Tensor:
        return work()


def _computed(module: nn.Module, weights: Mapping[str, Tensor], work: Callable[[], Tensor]) -> Tensor:
    """Return what `work` computes while `module` has other weights; they are put in and taken out by torch."""
    own = dict(module.named_parameters())
    cast = {f"module.{name}": weight.to(own[name].dtype) for name, weight in weights.items()}
    computed: Tensor = functional_call(_Host(module), cast, (work,))
    return computed


def _check_shapes(backbone: Backbone, learnt: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    strange = [name for name in learnt if name not in own or learnt[name].shape != own[name].shape]
    if strange or not learnt:
        what = f"weight {strange[0]!r}" if strange else "no weight"
        raise ArtifactError(
            f"it holds {what}, which is none of {backbone.id}'s denoiser; fit again on this model"
        )
