"""Several tails at once: side by side in one prompt, in the negative branch, or averaged into one.

The result is an artifact like any other.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hiper.artifacts.artifact import FINGERPRINT_TOLERANCE, Artifact, fingerprint_distance
from hiper.artifacts.header import PARTS, UNKNOWN_SEED
from hiper.backbones import prediction_entry
from hiper.conditioning import NEGATIVE, TAIL, Placement, averaged, side_by_side
from hiper.errors import ArtifactError, HiperWarning, OptionError
from hiper.options import Value, check_number, resolve_strength

LARGEST_TAIL = 64
"""Token embeddings of a combined tail."""

SEPARATOR = " + "
"""Between the captions of a combined artifact."""


def combine(
    artifacts: Sequence[Artifact],
    *,
    strength: float | Sequence[float | None] | None = None,
    negative: Artifact | None = None,
    negative_strength: float | None = None,
    placement: Placement | None = None,
) -> Artifact:
    """Put the tails of several subjects, or of a subject and a style, into one prompt.

    The tails are multiplied by their factors, so the result's own strength is 1. A tail of factor 0 is left out, and
    where all are, the result's own strength is 0. Its caption joins all captions, and the header describes each part.
    A HiperWarning is issued for mixed checkpoints.

    Args:
        artifacts: One or more, of the method `hiper`.
        strength: Factor on each tail, -10 to 10, or one for all; None takes the artifact's own.
        negative: Its tail follows the negative prompt, so that pictures avoid its subject.
        negative_strength: Factor on its tail, -10 to 10; None takes its own.
        placement: "append" overwrites no word and no padding; "replace" takes the last tokens of the prompt for all
            tails; None appends several, and leaves one where its fit had it.

    Raises:
        ArtifactError: Other methods, mixed families or widths, or more than 64 token embeddings in all.
        OptionError: Strengths out of range, or not one per artifact.
    """
    others = [] if negative is None else [negative]
    _check_alike([*artifacts, *others])
    _warn_of_mixed_checkpoints([*artifacts, *others])
    factors = _strengths(artifacts, strength)
    effective = [(each, factor) for each, factor in zip(artifacts, factors, strict=True) if factor != 0]
    placed = effective or [(each, 1.0) for each in artifacts]
    tail = side_by_side([each.tensors[TAIL] for each, _ in placed], [factor for _, factor in placed])
    if len(tail) > LARGEST_TAIL:
        raise ArtifactError(
            f"{len(tail)} token embeddings in all; allowed are {LARGEST_TAIL}: take fewer artifacts"
        )
    tensors = {TAIL: tail}
    parts = [_part(each, strength=factor) for each, factor in zip(artifacts, factors, strict=True)]
    if negative is not None:
        away = resolve_strength(negative.edit, negative_strength)
        if away != 0:
            tensors[NEGATIVE] = side_by_side([negative.tensors[TAIL]], [away])
        parts.append(_part(negative, strength=away, negative=True))
    where = placement or ("append" if len(artifacts) > 1 else _placement(artifacts[0]))
    settings = {**artifacts[0].edit, "strength": 1.0 if effective else 0.0}
    return _joined(artifacts, tensors, parts, edit=settings, options={"placement": where})


def average(artifacts: Sequence[Artifact], *, weights: Sequence[float] | None = None) -> Artifact:
    """Average the tails of several pictures of one subject, embedding by embedding, into one tail of the same size.

    The result keeps all captions, joined, the options in which all agree, and the first one's editing defaults.

    Args:
        artifacts: One or more, which agree in method (`hiper`), family, width, length, placement and checkpoint.
        weights: Of each artifact, 0 or more, not all 0; None weighs all alike.

    Raises:
        ArtifactError: The artifacts do not agree.
        OptionError: Weights out of range, or not one per artifact.
    """
    _check_alike(artifacts)
    _check_same_fit(artifacts)
    shares = _shares(artifacts, weights)
    tail = averaged([each.tensors[TAIL] for each in artifacts], shares)
    parts = [_part(each, weight=share) for each, share in zip(artifacts, shares, strict=True)]
    first = artifacts[0]
    shared = [name for name in first.options if len({each.options.get(name) for each in artifacts}) == 1]
    kept = {name: first.options[name] for name in shared}
    return _joined(artifacts, {TAIL: tail}, parts, edit=dict(first.edit), options=kept)


def _joined(
    artifacts: Sequence[Artifact],
    tensors: dict[str, Tensor],
    parts: list[dict[str, Any]],
    *,
    edit: dict[str, Value],
    options: dict[str, Value],
) -> Artifact:
    first = artifacts[0]
    hashes, seeds = ({getattr(each, name) for each in artifacts} for name in ("image_sha256", "seed"))
    return replace(
        first,
        caption=SEPARATOR.join(dict.fromkeys(each.caption for each in artifacts)),
        image_sha256=first.image_sha256 if len(hashes) == 1 else "",
        seed=first.seed if len(seeds) == 1 else UNKNOWN_SEED,
        options={**options, "tail": len(tensors[TAIL])},
        edit=edit,
        tensors=tensors,
        source=first.source if len(hashes) == 1 else None,
        figures={},
        created=max(part["created"] for part in parts),  # not now: the same parts make the same file
        extra={**prediction_entry(first.prediction_type), PARTS: json.dumps(parts, ensure_ascii=False)},
    )


def _part(artifact: Artifact, **how: float | bool) -> dict[str, Any]:
    facts = {name: getattr(artifact, name) for name in ("caption", "image_sha256", "seed", "created")}
    inner = {"parts": json.loads(artifact.extra[PARTS])} if PARTS in artifact.extra else {}
    return {**facts, "rows": len(artifact.tensors[TAIL]), **how, **inner}


def _check_alike(artifacts: Sequence[Artifact]) -> None:
    if not artifacts:
        raise ArtifactError("no artifact is given; give one or more")
    first = artifacts[0]
    for each in artifacts:
        if each.method != "hiper":
            raise ArtifactError(
                f"{each.caption!r} was learnt by {each.method}; allowed are tails of method hiper"
            )
        if NEGATIVE in each.tensors:
            raise ArtifactError(
                f"{each.caption!r} already holds a negative tail; combine the artifacts that it was made of"
            )
        if (each.family, each.embed_dim) != (first.family, first.embed_dim):
            raise ArtifactError(
                f"{first.caption!r} is of {first.family} with token embeddings of width {first.embed_dim},"
                f" {each.caption!r} of {each.family} with width {each.embed_dim}; fit both on one model"
            )
        said = first.prediction_type, each.prediction_type
        if None not in said and said[0] != said[1] and not _far(first, each):
            raise ArtifactError(
                f"{first.caption!r} was fitted on a model that predicts {said[0]}, {each.caption!r} on the same weights"
                f" as predicting {said[1]}; one of them learnt nothing of use: fit it again with the right --prediction"
            )


def _check_same_fit(artifacts: Sequence[Artifact]) -> None:
    first = artifacts[0]
    for each in artifacts[1:]:
        for name, ours, theirs in (
            ("a tail of", len(first.tensors[TAIL]), len(each.tensors[TAIL])),
            ("placement", _places(first), _places(each)),
        ):
            if ours != theirs:
                raise ArtifactError(
                    f"{first.caption!r} has {name} {ours} and {each.caption!r} {theirs}; an average needs one:"
                    " fit them alike"
                )
        if _far(first, each):
            raise ArtifactError(
                f"{each.caption!r} was fitted on {each.backbone}, whose weights differ from those"
                f" behind {first.caption!r}; fit both on one checkpoint"
            )


def _warn_of_mixed_checkpoints(artifacts: Sequence[Artifact]) -> None:
    if any(_far(artifacts[0], each) for each in artifacts[1:]):
        warnings.warn(
            "the artifacts were fitted on different checkpoints; subjects may come out less alike",
            HiperWarning,
            stacklevel=3,
        )


def _far(one: Artifact, other: Artifact) -> bool:
    return not fingerprint_distance(one.fingerprint, other.fingerprint) <= FINGERPRINT_TOLERANCE


def _placement(artifact: Artifact) -> Value:
    return artifact.options.get("placement", "replace")


def _places(artifact: Artifact) -> str:
    """Return what decides which tokens the tail replaces."""
    placement = str(_placement(artifact))
    return f"{placement} by seed {artifact.seed}" if placement == "random" else placement


def _strengths(artifacts: Sequence[Artifact], given: float | Sequence[float | None] | None) -> list[float]:
    values = given if isinstance(given, Sequence) else [given] * len(artifacts)
    _check_count("strengths", values, artifacts)
    return [resolve_strength(each.edit, value) for each, value in zip(artifacts, values, strict=True)]


def _shares(artifacts: Sequence[Artifact], weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        return [1 / len(artifacts)] * len(artifacts)
    _check_count("weights", weights, artifacts)
    checked = torch.tensor([check_number("weight", each, 0, 1e6) for each in weights], dtype=torch.float64)
    if not bool(checked.any()):
        raise OptionError("all weights are 0; give one above 0")
    shares: list[float] = (checked / checked.sum()).tolist()
    return shares


def _check_count(name: str, values: Sequence[float | None], artifacts: Sequence[Artifact]) -> None:
    if len(values) != len(artifacts):
        raise OptionError(
            f"{len(values)} {name} for {len(artifacts)} artifacts; give one per artifact, in their order"
        )
