"""Checkpoints of a fit, which resumes from them to the same bits: one safetensors file, no pickle.

Tensors: parameters, Adam's two moments, the same of the last good state, to which a fit goes
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


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Numbers of a fit.

    Attributes:
        step: Steps done.
        updates: Adam's own count.
        halvings: Of the learning rate.
        loss_before: On the fixed batch, before the first step.
        best_loss: The least on the fixed batch so far.
        seconds: Spent so far.
        failures: Windows rolled back since the last good one.
        undone: Whether the last interval was rolled back.
        averaged: Updates in the mean of the parameters.
        loss_scale: By which the loss is multiplied from here on; 0 for that of the config.
        good_updates: `updates` in the last good state.
        good_averaged: `averaged` in the last good state.
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
    """A fit between two log intervals. All tensors are float32 on the CPU, `random` is uint8 [state].

    Attributes:
        progress: Where the fit stands.
        parameters: What is learnt, by name.
        first_moments: Adam's, by name of the parameter.
        second_moments: Adam's, likewise.
        best: The best parameters so far, or their mean.
        random: The state of the generator.
        identity: The key of the fit, which must be the same on resuming.
        good: The same four groups of tensors in the last good state; empty where nothing is ever rolled back.
    """

    progress: TrainingProgress
    parameters: Mapping[str, Tensor]
    first_moments: Mapping[str, Tensor]
    second_moments: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    random: Tensor
    identity: Key = field(default_factory=dict)
    good: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Serialise to one safetensors blob."""
        groups = {name: getattr(self, name) for name in _STATE}
        groups |= {f"good_{name}": group for name, group in self.good.items()}
        tensors = {
            f"{prefix}.{name}": tensor.contiguous()
            for prefix, group in groups.items()
            for name, tensor in group.items()
        }
        header = {
            "hiper.checkpoint": str(FORMAT),
            "hiper.progress": json.dumps(asdict(self.progress)),
            "hiper.identity": json.dumps(dict(self.identity), sort_keys=True),
        }
        return safetensors.torch.save({**tensors, "random": self.random}, metadata=header)

    @classmethod
    def from_file(cls, path: Path) -> TrainingState:
        """Read a checkpoint.

        Raises:
            ResumeError: It is damaged, or none of this release.
        """
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
                progress=TrainingProgress(**json.loads(header["hiper.progress"])),
                random=tensors["random"],
                identity=dict(json.loads(header["hiper.identity"])),
                good={each: group(f"good_{each}") for each in _STATE},
                **{each: group(each) for each in _STATE},
            )
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise ResumeError(f"{path} is damaged; remove it to start anew") from error


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """Where a fit saves itself.

    Attributes:
        path: The file.
        every_seconds: Time between two checkpoints.
        resume: Resume from the file if it exists.
    """

    path: Path
    every_seconds: float = 20.0
    resume: bool = False

    def part(self, name: Part) -> CheckpointFile:
        """Return the checkpoint of a later part of the same fit: beside this one, which stays meanwhile."""
        return replace(self, path=self.path.with_name(f"{self.path.name}.{name}"))

    def save(self, state: TrainingState) -> None:
        """Write atomically; a kill at any moment leaves the old or the new checkpoint."""
        files.atomic_write(self.path, state.to_bytes(), overwrite=True)

    def load(self, identity: Key) -> TrainingState | None:
        """Read the state to resume from.

        Args:
            identity: The key of the fit.

        Returns:
            None to start anew.

        Raises:
            ResumeError: The checkpoint belongs to another job, or is damaged.
        """
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
