"""Every error hiper raises on purpose.

HiperError                 exit status 1: the job could not be finished
├── FitError               the optimisation failed (non-finite loss, a tail that receives no gradient)
├── Interrupted            exit status 128 + signal: stopped by the user, progress is saved
├── TaskError              a worker process could not finish its task
│   ├── WorkerDiedError    it died of it, again and again
│   ├── TimeLimitError     it took longer than allowed
│   └── MemoryLimitError   it needed more memory than there was, or than allowed
└── UserError              exit status 2: what arrived, what is allowed, what to do, in one line
    ├── ImageError         a picture or mask that cannot be used
    ├── CaptionError       a caption or prompt that cannot be used
    ├── OptionError        an unknown option, or a value out of range
    ├── ArtifactError      a file that is not a usable artifact, or not for this backbone
    ├── BackboneError      a model that cannot be found, read or used
    ├── OutputError        a place that cannot be written to
    └── ResumeError        a checkpoint that does not belong to this job

HiperWarning               something the user should know; the job goes on
"""

from __future__ import annotations


class HiperError(Exception):
    """Base of all errors raised on purpose; `exit_status` is what the command line returns."""

    exit_status = 1


class FitError(HiperError):
    """The optimisation failed; the last good state is in the checkpoint if one was asked for."""


class Interrupted(HiperError):
    """The user stopped the job (SIGINT, SIGTERM); what was reached is in the checkpoint."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number


class TaskError(HiperError):
    """A worker process could not finish its task; others may go on."""


class WorkerDiedError(TaskError):
    """As many workers as are tried died with the same task."""


class TimeLimitError(TaskError):
    """The task took longer than it was allowed to, and its worker was ended."""


class MemoryLimitError(TaskError):
    """The task needed more memory than there is, or than a worker is allowed."""


class UserError(HiperError):
    """A mistake the user can mend; the message says how."""

    exit_status = 2


class ImageError(UserError):
    """A picture or mask that cannot be used."""


class CaptionError(UserError):
    """A caption or prompt that cannot be used."""


class OptionError(UserError):
    """An unknown option or a value out of range."""


class ArtifactError(UserError):
    """A file that is not a usable artifact, or was made for another family of models."""


class BackboneError(UserError):
    """A model that cannot be found, read or used."""


class OutputError(UserError):
    """A place that cannot be written to."""


class ResumeError(UserError):
    """A checkpoint that does not belong to this job."""


class HiperWarning(UserWarning):
    """Something the user should know although the job goes on."""
