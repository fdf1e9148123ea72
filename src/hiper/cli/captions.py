"""`--caption auto`: the picture described by a network that the user named, or by the world's own reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hiper.cli.requests import FitRequest, Hardware, Session
from hiper.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

AUTO = "auto"


def automatic_caption(session: Session, request: FitRequest, hardware: Hardware) -> str | None:
    """Return the caption found for the picture, and tell it; None when the user gave one.

    Only a captioner that was named is loaded, and only its Hub id fetched.
    """
    if request.caption != AUTO:
        if request.captioner is not None:
            raise OptionError("--captioner is for --caption auto; leave one of them away")
        return None
    if request.captioner is None and request.backbone != "critters":
        raise OptionError(
            "--caption auto needs --captioner NAME, the folder or Hub id of a BLIP or Florence-2,"
            " such as Salesforce/blip-image-captioning-base; or write the caption yourself"
        )
    from hiper.images import open_image

    opened = open_image(
        request.image,
        frame=request.frame,
        background=request.background,
        allow_truncated=request.allow_truncated,
    )
    caption = _described(opened.image, request.captioner, hardware)
    session.console.note(
        f"the caption is {caption!r}; give another by --caption if that is not what it shows"
    )
    return caption


def _described(picture: Image, captioner: str | None, hardware: Hardware) -> str:
    if captioner is None:
        from hiper.critters import describe

        return describe(picture)
    from hiper.metrics import Captioner

    return Captioner.load(captioner, local_only=False, device=hardware.device).caption(picture)
