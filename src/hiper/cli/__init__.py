"""The command line: reads arguments, calls the package, prints. No tensor is touched here.

Results go to stdout; progress, notes and errors to stderr. Whatever takes seconds to import is imported
inside the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from hiper.errors import HiperError

# Progress bars and notices of the libraries underneath; what matters of them is raised or warned of by us.
_QUIET_LIBRARIES = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: the whole job was done. 1: it could not be finished. 2: a mistake of the user, reported in one line.
    128 + n: stopped by signal n (130 Ctrl-C, 143 SIGTERM) after saving what there was.
    """
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # before the command, which catches signals itself, has begun
        return 130


def _run(arguments: Sequence[str] | None) -> int:
    import typer

    from hiper.cli.app import app
    from hiper.cli.arguments import with_joined_options
    from hiper.cli.console import prepare_streams, print_error
    from hiper.cli.stopping import Stopped
    from hiper.files import ADVICE, is_out_of_memory

    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    logging.disable()
    prepare_streams()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        return int(app(with_joined_options(given), obj=given, prog_name="hiper", standalone_mode=False) or 0)
    except typer.TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "hiper")
        print_error(f"{error.format_message().rstrip('.')}; see {command} --help")
        return 2
    except HiperError as error:
        print_error(str(error))
        return error.exit_status
    except Stopped as stopped:
        print_error(str(stopped))
        return stopped.exit_status
    except (MemoryError, ImportError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            print_error(ADVICE)
        elif _is_broken_library(error):
            from hiper.analysis.doctor import deepest, in_one_line

            print_error(f"a library cannot be imported ({in_one_line(deepest(error))}); see hiper doctor")
        else:
            raise
        return 1


def _is_broken_library(error: Exception) -> bool:
    """Diffusers and transformers import their parts at the first use; diffusers tells of a failure as RuntimeError."""
    if isinstance(error, ImportError):
        return not (error.name or "").startswith("hiper")
    return isinstance(error, RuntimeError) and str(error).startswith("Failed to import")
