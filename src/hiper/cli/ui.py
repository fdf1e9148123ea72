"""`hiper ui`: load a model and serve the page until stopped."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Annotated

from typer import Option

from hiper.cli.fit import load_model
from hiper.cli.options import BackboneName, Device
from hiper.cli.session import Session
from hiper.errors import OptionError


def ui(
    session: Session,
    hardware: Device,
    backbone: BackboneName = "critters",
    host: Annotated[
        str | None, Option(help="Address to serve on; default: 127.0.0.1, this computer only.")
    ] = None,
    port: Annotated[
        int | None, Option(min=1, max=65535, help="Port; default: the first free one from 7860.")
    ] = None,
    library: Annotated[
        Path | None,
        Option(metavar="DIR", help="Folder of saved subjects; default: ~/.local/share/hiper/library."),
    ] = None,
    max_upload_mb: Annotated[int, Option(min=1, max=10_000, help="Largest upload in MB.")] = 50,
    clip: Annotated[
        str | None,
        Option(metavar="FOLDER", help="CLIP weights, to rank pictures by the prompt; default: none."),
    ] = None,
    dino: Annotated[
        str | None,
        Option(metavar="FOLDER", help="DINOv2 weights, to rank pictures by likeness; default: none."),
    ] = None,
) -> None:
    """Open the web page, to fit and edit in a browser."""
    if importlib.util.find_spec("gradio") is None:
        raise OptionError('the web page needs Gradio; install it with: python -m pip install "hiper[ui]"')
    with session.progress() as report:
        model = load_model(backbone, hardware, report)
        report("starting the page", 0, 0)
        from hiper.artifacts import Library, default_folder
        from hiper.web import Address, Similarity, served

    address = Address(host=host or Address.host, port=port)
    if not address.is_local:
        session.console.note(
            f"serving on {address.host}: whoever reaches this computer can use the page and see the library"
        )
    shelf = Library(library or default_folder())
    similarity = Similarity(clip=clip, dino=dino)
    with served(model, shelf, address, similarity=similarity, max_upload_mb=max_upload_mb) as url:
        record = {"url": url, "library": str(shelf.folder), "backbone": model.id}
        session.console.result(record, [f"{url} (library: {shelf.folder}; Ctrl-C ends it)"])
        threading.Event().wait()
