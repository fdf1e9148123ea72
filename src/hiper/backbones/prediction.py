"""What a diffusion model predicts, by all who may say so: an option, a file's header, the files beside it.

A model that predicts v and is trained as one that predicts the noise learns towards a wrong target, in silence. So
every statement is gathered; two that contradict each other are refused.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hiper.errors import BackboneError, HiperWarning
from hiper.options import check_choice

Prediction = Literal["epsilon", "v_prediction"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)

OPTION = "prediction_type (--prediction)"
_WORDS: Mapping[str, Prediction] = {
    "eps": "epsilon",
    "epsilon": "epsilon",
    "epsscaling": "epsilon",
    "v": "v_prediction",
    "vpred": "v_prediction",
    "vprediction": "v_prediction",
    "velocity": "v_prediction",
    "vscaling": "v_prediction",
}
"""As ldm (`parameterization`), sgm (`denoiser_scaling`), ModelSpec and diffusers spell it, without hyphens."""

MODELSPEC = "modelspec.prediction_type"
"""Stability AI's ModelSpec 1.0.1 has two words here, epsilon and v, and none for a flow."""
_MODELSPEC_WORDS: Mapping[str | None, str] = {"epsilon": "epsilon", "v_prediction": "v"}

_CONFIG_BYTES = 1_000_000
_YAML_PREDICTION = re.compile(
    r"\b(?:parameterization|prediction_type)[\"']?\s*:\s*[\"']?([\w-]+)|\bdenoiser_scaling\.(\w+)"
)
_YAML_ZERO_TERMINAL = re.compile(
    r"\b(?:zero_terminal_snr|rescale_betas_zero_snr|ztsnr|zsnr)[\"']?\s*:\s*[\"']?(?:true|yes|on|1)\b", re.I
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What one source says.

    Attributes:
        source: Who says it, for messages.
        prediction: In the source's own word; None where it says nothing.
        zero_terminal: The last timestep is noise alone (arXiv:2305.08891, section 3.1).
    """

    source: str
    prediction: str | None = None
    zero_terminal: bool = False


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is agreed on; `prediction` is None where nobody says it."""

    prediction: Prediction | None
    zero_terminal: bool


def parse_prediction(word: str) -> Prediction | None:
    """Return the prediction that a word means, in any of the spellings in use; None for another word."""
    return _WORDS.get(re.sub(r"[^a-z]", "", word.lower()))


def resolve_prediction(given: str | None) -> Prediction | None:
    """Return the prediction that a user asks for.

    Raises:
        OptionError: It is none of `PREDICTIONS` and no other spelling of one.
    """
    if given is None:
        return None
    check_choice(OPTION, parse_prediction(given) or given, PREDICTIONS)
    return parse_prediction(given)


def agree(model: str, statements: Iterable[Statement]) -> Target:
    """Return what all statements about a model agree on.

    Raises:
        BackboneError: Two contradict each other, one is of a prediction that hiper cannot train with, or the last
            timestep is noise alone, of which a prediction of the noise would say nothing.
    """
    statements = list(statements)
    said = [(each.source, _parsed(model, each)) for each in statements if each.prediction is not None]
    for source, prediction in said[1:]:
        if prediction != said[0][1]:
            raise BackboneError(
                f"{said[0][0]} says that {model} predicts {said[0][1]}, {source} says {prediction}; correct or leave"
                " out the wrong one"
            )
    agreed = said[0][1] if said else None
    ending = next((each for each in statements if each.zero_terminal), None)
    if ending is not None and agreed != "v_prediction":
        found = "predicts the noise" if agreed else "does not say what it predicts"
        raise BackboneError(
            f"{ending.source} says that the last timestep of {model} is noise alone, but the model {found};"
            f" state {OPTION} v_prediction if that is what it predicts"
        )
    return Target(prediction=agreed, zero_terminal=ending is not None)


def _parsed(model: str, statement: Statement) -> Prediction:
    found = parse_prediction(statement.prediction or "")
    if found is None:
        raise BackboneError(
            f"{statement.source} says that {model} predicts {statement.prediction!r}; allowed are"
            f" {' and '.join(PREDICTIONS)}"
        )
    return found


def prediction_entry(objective: str | None) -> dict[str, str]:
    """Return the header entry by which an artifact remembers an objective; empty for a flow."""
    return {MODELSPEC: _MODELSPEC_WORDS[objective]} if objective in _MODELSPEC_WORDS else {}


def file_statements(path: Path, header: Mapping[str, Any], given: str | None) -> Iterator[Statement]:
    """Yield what is said of a single-file checkpoint: by the user, in its header, in the files beside it."""
    yield Statement(source=OPTION, prediction=given)
    yield Statement(
        source=f"the entry v_pred or ztsnr of {path.name}",
        prediction="v" if "v_pred" in header else None,
        zero_terminal="ztsnr" in header,
    )
    metadata = header.get("__metadata__", {})
    yield Statement(
        source=f"{MODELSPEC} in {path.name}",
        prediction=metadata.get(MODELSPEC) or None,
        zero_terminal=metadata.get("ss_zero_terminal_snr", "").lower() == "true",
    )
    for config in yaml_files(path):
        yield _yaml_statement(config)
    for config in (
        path.parent / "scheduler_config.json",
        path.parent / "scheduler" / "scheduler_config.json",
    ):
        if config.is_file():
            yield _scheduler_statement(config)


def yaml_files(path: Path) -> list[Path]:
    """Return the .yaml files that describe a checkpoint.

    Those are named as the checkpoint, with or without its suffix, in whatever case; else the only one of a folder
    with a single checkpoint, such as v2-inference-v.yaml.
    """
    files = [file for file in path.parent.iterdir() if file.is_file()]
    yamls = sorted(file for file in files if file.suffix.lower() in (".yaml", ".yml"))
    names = (path.stem.lower(), path.name.lower())
    own = [file for file in yamls if file.stem.lower() in names]
    if own:
        return own
    checkpoints = [file for file in files if file.suffix.lower() in (".safetensors", ".ckpt")]
    return yamls if len(yamls) == len(checkpoints) == 1 else []


def _yaml_statement(path: Path) -> Statement:
    """All that matters is ASCII, so that no encoding can be wrong: not cp1252, not UTF-16, not a byte order mark."""
    with path.open("rb") as file:
        text = file.read(_CONFIG_BYTES).replace(b"\0", b"").decode("latin-1")
    text = re.sub(r"(?m)(^|\s)#.*", "", text)
    found = _YAML_PREDICTION.search(text)
    return Statement(
        source=path.name,
        prediction=found[1] or found[2] if found else None,
        zero_terminal=_YAML_ZERO_TERMINAL.search(text) is not None,
    )


def _scheduler_statement(path: Path) -> Statement:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BackboneError(f"{path} is not valid JSON ({error}); correct it, or move it away") from error
    known = config if isinstance(config, dict) else {}
    is_edm = str(known.get("_class_name")).startswith("EDM")
    stated = known.get("prediction_type")
    return Statement(
        source="/".join(path.parts[-2:]) if path.parent.name == "scheduler" else path.name,
        prediction="EDM" if is_edm else None if stated is None else str(stated),
        zero_terminal=known.get("rescale_betas_zero_snr") is True,
    )


def assume_epsilon(model: str, *, doubtful: bool = False) -> Prediction:
    """Return what most models predict; warns where it is doubtful, or the model's name says otherwise."""
    if doubtful or re.search(r"v[-_ ]?pred", Path(model).name, re.I):
        warnings.warn(
            f"{model} does not say what it predicts: it is taken to predict the noise; state {OPTION} epsilon, or"
            " v_prediction, to be sure",
            HiperWarning,
            stacklevel=3,
        )
    return "epsilon"
