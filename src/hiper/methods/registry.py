"""The methods: a table of names to lazy imports, plus the entry points of the group "hiper.methods"."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import entry_points
from inspect import signature
from typing import TYPE_CHECKING, Any

from hiper.errors import HiperWarning, OptionError
from hiper.methods.presets import AUTO
from hiper.options import GROUP, METHODS, method_names, unknown_choice

if TYPE_CHECKING:
    from hiper.artifacts import Artifact
    from hiper.backbones import Backbone
    from hiper.images import Subject
    from hiper.methods.base import Method
    from hiper.training import Callback, CheckpointFile, StopRequest


def get_method(name: str) -> Method[Any]:
    """Return the method of that name; OptionError lists the known ones."""
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        method: Method[Any] = getattr(import_module(module), attribute)()
        return method
    for entry in entry_points(group=GROUP, name=name):
        return _adapted(entry.load())
    raise unknown_choice("method", name, method_names())


_EARLIER_NAMES = {
    "needs": "requires",
    "applied": "attach",
    "draws_by": "sampling_defaults",
    "rows_only": "token_embeddings_only",
}


def _adapted(kind: type[Method[Any]]) -> Method[Any]:
    """Build a method of another package; one that was written for an earlier release is adapted, with a warning."""
    earlier = {old: new for old, new in _EARLIER_NAMES.items() if hasattr(kind, old)}
    own: dict[str, Any] = {new: getattr(kind, old) for old, new in earlier.items()}
    requires = own.get("requires", kind.requires)
    if "rows" in requires:
        own["requires"] = requires - {"rows"} | {"token_embeddings"}
        earlier["rows"] = "token_embeddings"
    fit: Any = kind.fit
    if {"callback", "should_stop"} <= signature(fit).parameters.keys():
        own["fit"] = lambda self, backbone, subject, options, control=None: fit(
            self,
            backbone,
            subject,
            options,
            **{name: getattr(control, name, None) for name in ("callback", "checkpoint", "should_stop")},
        )
        earlier["fit(callback, checkpoint, should_stop)"] = "fit(control)"
    if not earlier:
        return kind()
    names = ", ".join(f"{old} is {new} now" for old, new in earlier.items())
    warnings.warn(f"method {kind.name} was written for an earlier hiper: {names}", HiperWarning, stacklevel=3)
    adapted: Any = type(kind)
    built: Method[Any] = adapted(kind.__name__, (kind,), own)()
    return built


def fit(
    backbone: Backbone,
    subject: Subject,
    *,
    method: str = "hiper",
    preset: str = AUTO,
    callback: Callback | None = None,
    checkpoint: CheckpointFile | None = None,
    should_stop: StopRequest | None = None,
    deterministic: bool = False,
    **options: object,
) -> Artifact:
    """Learn one subject; the backbone is afterwards what it was.

    Args:
        backbone: The model.
        subject: The picture and its caption.
        method: The name of a way to learn.
        preset: The name of its settings, or a file that `hiper tune` wrote; "auto" takes what suits the model
            ("default" was tuned on the embedded one).
        callback: Called with a `ProgressEvent` every `log_every` steps.
        checkpoint: Where a long fit saves itself, and whether it resumes from there.
        should_stop: Called as often; a signal number stops and saves the fit.
        deterministic: The same bits every time on an accelerator too, slower; see `hiper.options.determinism`.
        **options: Values that differ from the preset.

    Returns:
        What was learnt.

    Raises:
        OptionError: An option is unknown or not allowed.
        FitError: Nothing can be learnt.
        ResumeError: The checkpoint belongs to another job.
        Interrupted: `should_stop` said so.
    """
    from hiper.critters import tell_of_strangers

    if isinstance(subject, (list, tuple)):
        raise OptionError(
            f"{len(subject)} subjects; fit them one by one, and put together what was learnt by hiper.average"
        )
    chosen = get_method(method)
    resolved = chosen.options_for(backbone.id, preset, **options)
    chosen.check(backbone)
    tell_of_strangers(subject, backbone.id)
    from hiper.options import determinism
    from hiper.training import FitControl

    with determinism.deterministic(deterministic):
        control = FitControl(callback=callback, checkpoint=checkpoint, should_stop=should_stop)
        return chosen.fit(backbone, subject, resolved, control)
