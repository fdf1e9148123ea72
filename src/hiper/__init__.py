"""HiPer: one picture and one sentence in, a small file out, and any later sentence edits that picture.

    import hiper
    backbone = hiper.load_backbone("critters")
    subject = hiper.Subject.open("dog.png", caption="a standing dog")
    artifact = hiper.fit(backbone, subject)
    result = hiper.edit(backbone, artifact, "a sitting dog", seeds=[0, 1, 2, 3])

Names are imported on first use, so that `import hiper` takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hiper.artifact import Artifact as Artifact
    from hiper.backbones import load_backbone as load_backbone
    from hiper.backbones.base import Backbone as Backbone
    from hiper.checkpoint import CheckpointFile as CheckpointFile
    from hiper.combining import average as average
    from hiper.combining import combine as combine
    from hiper.editing import EditResult as EditResult
    from hiper.editing import edit as edit
    from hiper.editing import prompt_embeds as prompt_embeds
    from hiper.errors import HiperError as HiperError
    from hiper.errors import HiperWarning as HiperWarning
    from hiper.errors import UserError as UserError
    from hiper.fitting import StepRecord as StepRecord
    from hiper.importing import import_reference as import_reference
    from hiper.methods import fit as fit
    from hiper.subject import Subject as Subject

_HOMES = {
    "Artifact": "hiper.artifact",
    "Backbone": "hiper.backbones.base",
    "CheckpointFile": "hiper.checkpoint",
    "EditResult": "hiper.editing",
    "HiperError": "hiper.errors",
    "HiperWarning": "hiper.errors",
    "StepRecord": "hiper.fitting",
    "Subject": "hiper.subject",
    "UserError": "hiper.errors",
    "average": "hiper.combining",
    "combine": "hiper.combining",
    "edit": "hiper.editing",
    "fit": "hiper.methods",
    "import_reference": "hiper.importing",
    "load_backbone": "hiper.backbones",
    "prompt_embeds": "hiper.editing",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
