"""The methods: a table of names to lazy imports, plus the entry points of the group "hiper.methods"."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from hiper.errors import OptionError
from hiper.methods.presets import AUTO
from hiper.nearest import suggestion

if TYPE_CHECKING:
    from hiper.artifact import Artifact
    from hiper.backbones.base import Backbone
    from hiper.checkpoint import CheckpointFile
    from hiper.fitting import Callback, StopRequest
    from hiper.methods.base import Method
    from hiper.subject import Subject

GROUP = "hiper.methods"
METHODS = {
    "ddim-inversion": "hiper.methods.ddim_inversion:DdimInversion",
    "dreambooth": "hiper.methods.dreambooth:Dreambooth",
    "dreambooth-lora": "hiper.methods.dreambooth_lora:DreamboothLora",
    "hiper": "hiper.methods.hiper:HiPer",
    "imagic": "hiper.methods.imagic:Imagic",
    "null-text": "hiper.methods.null_text:NullText",
    "sdedit": "hiper.methods.sdedit:Sdedit",
    "textual-inversion": "hiper.methods.textual_inversion:TextualInversion",
}


def method_names() -> list[str]:
    """Return the names of all installed methods, in alphabetical order."""
    return sorted({*METHODS, *(entry.name for entry in entry_points(group=GROUP))})


def get_method(name: str) -> Method[Any]:
    """Return the method of that name; OptionError lists the known ones."""
    if name in METHODS:
        module, _, attribute = METHODS[name].partition(":")
        method: Method[Any] = getattr(import_module(module), attribute)()
        return method
    for entry in entry_points(group=GROUP, name=name):
        installed: Method[Any] = entry.load()()
        return installed
    known = method_names()
    raise OptionError(f"method is {name!r}; allowed are {', '.join(known)}{suggestion(name, known)}")


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
    """Learn one subject and return what was learnt.

    method, preset: a way to learn and one of its settings, by name, or a file that `hiper tune` wrote. `auto` is what
    suits the model at hand: `default` was tuned on the embedded one. `options` are the values that differ from it.
    callback: called with a `StepRecord` after every window of steps.
    checkpoint: where a long fit saves itself, and whether it continues from there.
    should_stop: asked after every window; a signal number stops and saves the fit.
    deterministic: the same bits every time on an accelerator too, slower; see `hiper.determinism`.

    OptionError for an unknown or impossible option, FitError when nothing can be learnt, ResumeError for the
    checkpoint of another job, Interrupted after `should_stop`. The backbone is afterwards what it was.
    """
    from hiper.critters.strangers import tell_of_strangers

    if isinstance(subject, (list, tuple)):
        raise OptionError(
            f"{len(subject)} subjects; fit them one by one, and put together what was learnt by hiper.average"
        )
    chosen = get_method(method)
    resolved = chosen.options_for(backbone.id, preset, **options)
    chosen.check(backbone)
    tell_of_strangers(subject, backbone.id)
    from hiper import determinism

    with determinism.deterministic(deterministic):
        return chosen.fit(
            backbone, subject, resolved, callback=callback, checkpoint=checkpoint, should_stop=should_stop
        )
