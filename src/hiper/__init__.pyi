from .artifacts import Artifact as Artifact
from .artifacts import EditResult as EditResult
from .artifacts import average as average
from .artifacts import combine as combine
from .artifacts import import_reference as import_reference
from .backbones import Backbone as Backbone
from .backbones import load_backbone as load_backbone
from .errors import HiperError as HiperError
from .errors import HiperWarning as HiperWarning
from .errors import UserError as UserError
from .images import Subject as Subject
from .inference import edit as edit
from .inference import prompt_embeds as prompt_embeds
from .methods import fit as fit
from .training import CheckpointFile as CheckpointFile
from .training import ProgressEvent as ProgressEvent

__all__: list[str]
