"""What the handlers of the page share: showing errors and warnings."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, final

import gradio as gr

from hiper.errors import HiperError, Interrupted
from hiper.files import ADVICE, is_out_of_memory
from hiper.html import escape

TICK = 0.25
"""Seconds between two polls of a running job."""

Update = dict[Any, Any]
"""Component to its new value; all others stay as they are."""
NOTHING: Update = gr.skip()
"""The update of a handler that changes nothing."""


@final
class Reported:
    """Shows the error that ends a block, escaped, for Gradio renders messages as HTML.

    gr.Error would put a red mark on every part of the page that the handler could have changed.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        short = is_out_of_memory(error) and not isinstance(error, HiperError)
        if not (short or isinstance(error, HiperError)) or isinstance(error, Interrupted):
            return False
        gr.Warning(escape(ADVICE if short else str(error)), title="That did not work", duration=None)
        return True


def warn(notes: Iterable[str]) -> None:
    """Show notes, each once."""
    for note in dict.fromkeys(notes):
        gr.Warning(escape(note), title="Good to know")


def session_id(request: gr.Request) -> str:
    """Return the name of the browser's tab; two tabs are two sessions."""
    return str(request.session_hash)
