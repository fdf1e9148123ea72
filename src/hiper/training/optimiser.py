"""Adam on named float32 tensors, with a state that can be copied and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """Copies of the parameters and of Adam's state, on their device."""

    parameters: Mapping[str, Tensor]
    first_moments: Mapping[str, Tensor]
    second_moments: Mapping[str, Tensor]
    updates: int


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU, without gradients."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


class Adam:
    """`torch.optim.Adam` with the paper's constants, whose state can be copied and restored."""

    def __init__(self, parameters: Mapping[str, Tensor], rate: float) -> None:
        self._parameters = parameters
        self._adam = torch.optim.Adam(parameters.values(), lr=rate, betas=(0.9, 0.999), eps=1e-8)
        zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.restore(Snapshot({name: p.detach() for name, p in parameters.items()}, zeros, zeros, updates=0))

    @property
    def rate(self) -> float:
        """The learning rate."""
        return float(self._adam.param_groups[0]["lr"])

    @rate.setter
    def rate(self, value: float) -> None:
        self._adam.param_groups[0]["lr"] = value

    def update(self, loss_scale: float) -> None:
        """Apply the gradients of a loss that was multiplied by `loss_scale`, and clear them."""
        if loss_scale != 1.0:
            for parameter in self._parameters.values():
                if parameter.grad is not None:
                    parameter.grad.div_(loss_scale)
        self._adam.step()
        self._adam.zero_grad()

    def overflows(self, loss: Tensor) -> bool:
        """Whether a finite loss has gradients that are not, which are cleared; waits for an accelerator."""
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        finite = torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
        if not (loss.isfinite() & ~finite):
            return False
        self._adam.zero_grad()
        return True

    def is_finite(self) -> bool:
        """Whether all parameters are finite; waits for an accelerator once."""
        return bool(
            torch.stack([parameter.isfinite().all() for parameter in self._parameters.values()]).all()
        )

    def snapshot(self) -> Snapshot:
        """Return a copy of parameters and moments."""
        states = {name: self._adam.state[parameter] for name, parameter in self._parameters.items()}
        return Snapshot(
            {name: parameter.detach().clone() for name, parameter in self._parameters.items()},
            {name: state["exp_avg"].clone() for name, state in states.items()},
            {name: state["exp_avg_sq"].clone() for name, state in states.items()},
            updates=max(int(state["step"]) for state in states.values()),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Set parameters and moments to those of a snapshot."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(snapshot.parameters[name])
                self._adam.state[parameter] = {
                    "step": torch.tensor(float(snapshot.updates)),
                    "exp_avg": snapshot.first_moments[name].to(parameter.device, copy=True),
                    "exp_avg_sq": snapshot.second_moments[name].to(parameter.device, copy=True),
                }
