"""`hiper ui`: load a model and serve the page until stopped."""

from __future__ import annotations

import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path

from hiper.cli.fit_job import load_model
from hiper.cli.progress import progress
from hiper.cli.requests import Hardware, Session
from hiper.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class UiRequest:
    """Which page is wanted, and where; None leaves the choice to hiper."""

    backbone: str
    host: str | None
    port: int | None
    library: Path | None
    max_upload_mb: int
    clip: str | None
    dino: str | None


def ui(session: Session, request: UiRequest, hardware: Hardware) -> None:
    """Serve the page; Ctrl-C ends it."""
    if importlib.util.find_spec("gradio") is None:
        raise OptionError('the web page needs Gradio; install it with: python -m pip install "hiper[ui]"')
    with progress(quiet=session.console.quiet) as report:
        backbone = load_model(request.backbone, hardware, report)
        report("starting the page", 0, 0)
        from hiper.artifacts import Library, default_folder
        from hiper.web import Address, Similarity, served

    address = Address(host=request.host or Address.host, port=request.port)
    if not address.is_local:
        session.console.note(
            f"serving on {address.host}: whoever reaches this computer can use the page and see the library"
        )
    library = Library(request.library or default_folder())
    similarity = Similarity(clip=request.clip, dino=request.dino)
    with served(
        backbone, library, address, similarity=similarity, max_upload_mb=request.max_upload_mb
    ) as url:
        record = {"url": url, "library": str(library.folder), "backbone": backbone.id}
        session.console.result(record, [f"{url} (library: {library.folder}; Ctrl-C ends it)"])
        threading.Event().wait()
