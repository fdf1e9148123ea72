"""Serving the page, to this computer alone unless asked otherwise, without requests to other servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
from gradio import processing_utils
from starlette.middleware import Middleware

from hiper.artifacts import Library
from hiper.backbones import Backbone
from hiper.engines import environment
from hiper.errors import OptionError
from hiper.web.app import build
from hiper.web.guard import LOOPBACK, Guard, names_of
from hiper.web.service import Service, Similarity
from hiper.web.sessions import Sessions
from hiper.web.uploads import Uploads

KEPT = 8
"""Uploads of the largest size that may wait until the page has read them."""
_STYLE = Path(__file__).with_name("style.css")
_THEME = gr.themes.Soft(
    primary_hue="teal",
    neutral_hue="stone",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(  # Soft's own pale greens and greys are too faint to read
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_label_background_fill="*neutral_100",
    block_label_background_fill_dark="*neutral_800",
    block_label_text_color="*neutral_700",
    block_label_text_color_dark="*neutral_200",
    block_title_background_fill="none",
    block_title_background_fill_dark="none",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_title_padding="0",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the page is served.

    Attributes:
        host: A name or address of this computer.
        port: None takes a free one from 7860 on.
    """

    host: str = "127.0.0.1"
    port: int | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this computer reaches it."""
        return self.host in LOOPBACK


@contextmanager
def served(
    backbone: Backbone, library: Library, address: Address, *, similarity: Similarity, max_upload_mb: int
) -> Iterator[str]:
    """Serve the page while the block runs.

    Args:
        backbone: The model.
        library: Of subjects.
        address: Where to serve.
        similarity: Ranks pictures.
        max_upload_mb: MiB of an upload.

    Yields:
        The URL.

    Raises:
        OptionError: The page cannot be served there.
    """
    with (
        TemporaryDirectory(prefix="hiper-ui-") as name,
        environment(_variables(Path(name))),
        _no_downloads(),
    ):
        sessions = Sessions(Path(name))
        largest = max_upload_mb * 1024 * 1024
        uploads = Uploads(_temporary(Path(name)), most=KEPT * largest)
        page = build(Service(backbone, library, sessions, similarity), uploads)
        uploads.paths = page.upload_file_set
        guard = Middleware(
            Guard,
            names=names_of(address.host),
            addresses=not address.is_local,
            max_file_bytes=largest,
            after_upload=uploads.prune,
        )
        try:
            page.launch(**_settings(address, guard), max_file_size=largest)
        except OSError as error:
            port = f" port {address.port}" if address.port else ""
            raise OptionError(
                f"cannot serve on {address.host}{port}; name a host of this computer, or another free --port"
            ) from error
        try:
            yield str(page.local_url)
        finally:
            page.close(verbose=False)
            sessions.close()


def _settings(address: Address, guard: Middleware) -> dict[str, Any]:
    """Return the arguments of Gradio's `launch`."""
    return {
        "server_name": address.host,
        "server_port": address.port,
        "app_kwargs": {"middleware": [guard]},
        "theme": _THEME,
        "css_paths": [_STYLE],
        "footer_links": [],
        "prevent_thread_lock": True,
        "quiet": True,
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,
        "enable_monitoring": False,
        "run_history": False,
        "pwa": False,
    }


def _temporary(scratch: Path) -> Path:
    """Return the folder for Gradio's files."""
    return scratch / "gradio"


def _variables(scratch: Path) -> dict[str, str]:
    """Return Gradio's environment variables: our folder for its files, and no proxy for its own server."""
    without_proxy = ",".join([*LOOPBACK, *filter(None, [os.environ.get("NO_PROXY")])])
    return {
        "GRADIO_TEMP_DIR": str(_temporary(scratch)),
        "GRADIO_EXAMPLES_CACHE": str(scratch / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "NO_PROXY": without_proxy,
        "no_proxy": without_proxy,
    }


@contextmanager
def _no_downloads() -> Iterator[None]:
    """Refuse addresses that a request names as files, which Gradio would fetch."""

    async def refuse(url: str, cache_dir: str) -> str:
        raise gr.Error("addresses are not fetched; choose a file", print_exception=False)

    original = processing_utils.async_ssrf_protected_download
    processing_utils.async_ssrf_protected_download = refuse
    try:
        yield
    finally:
        processing_utils.async_ssrf_protected_download = original
