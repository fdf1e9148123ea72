"""What a killed fit needs to go on as if nothing had happened: one safetensors blob, no pickle.

Tensors: parameters, Adam's two moments, the same of the last good state, to which a window that is not finite goes
back, and the state of the random generator. Header: where the fit stands, and the key of the fit, which must be the
same on resuming.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import safetensors
import safetensors.torch
from torch import Tensor

from hiper import files
from hiper.errors import ResumeError
from hiper.options import Key, differences

FORMAT = 2
Part = Literal["weights"]
"""What a fit learns after its first stage, with a checkpoint of its own."""
_STATE = ("parameters", "first_moments", "second_moments", "best")
_GROUPS = (*_STATE, *(f"good_{name}" for name in _STATE))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Numbers of a fit: steps done, Adam's own count, halvings of the rate, losses, seconds spent.

    failures, undone: windows undone since the last good one, and whether the last one was
    averaged: updates in the mean; loss_scale: by which gradients are multiplied from here on, 0: the recipe's
    good_updates, good_averaged: both counts in the last good state
    """

    step: int
    updates: int
    halvings: int
    loss_before: float
    best_loss: float
    seconds: float
    failures: int = 0
    undone: bool = False
    averaged: int = 0
    loss_scale: float = 0.0
    good_updates: int = 0
    good_averaged: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """A fit between two windows. All tensors are float32 on the CPU, `random` is uint8 [state].

    best: the best parameters so far, or their mean; good_*: the last good state, empty where nothing is ever undone
    """

    progress: Progress
    parameters: Mapping[str, Tensor]
    first_moments: Mapping[str, Tensor]
    second_moments: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    random: Tensor
    identity: Key = field(default_factory=dict)
    good_parameters: Mapping[str, Tensor] = field(default_factory=dict)
    good_first_moments: Mapping[str, Tensor] = field(default_factory=dict)
    good_second_moments: Mapping[str, Tensor] = field(default_factory=dict)
    good_best: Mapping[str, Tensor] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Serialise to one safetensors blob."""
        tensors = {
            f"{group}.{name}": tensor.contiguous()
            for group in _GROUPS
            for name, tensor in getattr(self, group).items()
        }
        header = {
            "hiper.checkpoint": str(FORMAT),
            "hiper.progress": json.dumps(asdict(self.progress)),
            "hiper.identity": json.dumps(dict(self.identity), sort_keys=True),
        }
        return safetensors.torch.save({**tensors, "random": self.random}, metadata=header)

    @classmethod
    def from_file(cls, path: Path) -> TrainingState:
        """Read a checkpoint; ResumeError when it is damaged or not one of ours."""
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise ResumeError(
                f"{path} cannot be read as a checkpoint ({error}); remove it to start anew"
            ) from error
        if header.get("hiper.checkpoint") != str(FORMAT):
            raise ResumeError(f"{path} is not a checkpoint of this release of hiper; remove it to start anew")

        def group(name: str) -> dict[str, Tensor]:
            prefix = f"{name}."
            return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}

        try:
            return cls(
                progress=Progress(**json.loads(header["hiper.progress"])),
                random=tensors["random"],
                identity=dict(json.loads(header["hiper.identity"])),
                **{each: group(each) for each in _GROUPS},
            )
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise ResumeError(f"{path} is damaged; remove it to start anew") from error


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """Where a fit saves itself and how often; `resume` continues from what is there, if anything is."""

    path: Path
    every_seconds: float = 20.0
    resume: bool = False

    def part(self, name: Part) -> CheckpointFile:
        """Return where a later part of the same fit saves itself: beside this one, which stays meanwhile."""
        return replace(self, path=self.path.with_name(f"{self.path.name}.{name}"))

    def save(self, state: TrainingState) -> None:
        """Write atomically; a kill at any moment leaves the old or the new checkpoint."""
        files.atomic_write(self.path, state.to_bytes(), overwrite=True)

    def load(self, identity: Key) -> TrainingState | None:
        """Return the state to go on from, None to start anew; ResumeError when it belongs to another job."""
        if not (self.resume and self.path.exists()):
            self._remove_parts()  # of an earlier fit, from which a later stage would go on
            return None
        state = TrainingState.from_file(self.path)
        differing = differences(state.identity, identity)
        if differing:
            raise ResumeError(
                f"{self.path} belongs to another job: {', '.join(differing)};"
                " repeat the job as it was, or start anew without resuming"
            )
        return state

    def remove(self) -> None:
        """Remove the checkpoint and its parts once the result is safe."""
        self._remove_parts()
        self.path.unlink(missing_ok=True)

    def _remove_parts(self) -> None:
        for name in get_args(Part):
            self.part(name).path.unlink(missing_ok=True)
