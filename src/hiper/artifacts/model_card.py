"""The model card of a shared artifact: what it is, pictures, how to use it, its limits and its licence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, constants

from hiper.artifacts.header import ArtifactHeader
from hiper.artifacts.result import EditResult
from hiper.backbones import EMBEDDED
from hiper.errors import OptionError
from hiper.files import safe_slug, visible

FOLDER, CARD = "pictures", "README.md"

_ABOUT = """The subject of one picture, learned by [HiPer](https://arxiv.org/abs/2303.08767) as a few token
embeddings, a *tail*. Add them to any prompt to draw that subject."""

_USE = """## Use

With hiper installed from its repository:

```
hiper edit hiper.safetensors "{prompt}" --backbone {backbone} --out edits/
```

```python
import hiper

artifact = hiper.Artifact.from_pretrained("owner/name")  # or this folder
backbone = hiper.load_backbone("{backbone}")
hiper.edit(backbone, artifact, "{prompt}", seeds=[0, 1, 2, 3]).images[0].save("edit.png")
```

This is **not a textual inversion**: a tail belongs to the text encoder's *output*, so neither `load_textual_inversion`
nor an embeddings folder can use it. It works with {family} models with an embedding width of {embed}, and best with the
model it was fitted on.
"""
_LIMITS = """## Limits

- An edit is a new picture of the subject, unless this file contains the latents of the original picture.
- The fit saw one picture. The model invents what that picture does not show, and loses small details.
- With another checkpoint of the same family, the subject comes out less alike.
- Human faces are a weak side of the method. Do not use this on anyone without their consent.
"""


def picture_files(results: Sequence[EditResult]) -> dict[str, tuple[EditResult, int]]:
    """Return for every picture its path in the folder, and (result, number of the picture in it)."""
    files: dict[str, tuple[EditResult, int]] = {}
    for i, result in enumerate(results, start=1):
        for number, seed in enumerate(result.seeds):
            files[f"{FOLDER}/{i}-{safe_slug(result.prompt)}-{seed}.png"] = (result, number)
    return files


def model_card(
    shared: ArtifactHeader,
    results: Sequence[EditResult],
    *,
    license: str | None,  # noqa: A002
    embed: int | None,
) -> ModelCard:
    """Return the README of an artifact's folder.

    Args:
        shared: What `portable` returned.
        results: Edits to show.
        license: An identifier of the Hub; None refers to the base model's, of which a tail is a derivative.
        embed: Width of the token embeddings.

    Raises:
        OptionError: The licence is no identifier.
    """
    files = picture_files(results)
    prompt = results[0].prompt if results else shared.caption
    text = [
        f"# {_plain(shared.caption) or 'A subject'}, for hiper",
        f"{_ABOUT} {_origin(shared)}",
        *_pictures(files),
        _USE.format(
            prompt=_quotable(prompt),
            backbone=_quotable(shared.backbone),
            family=shared.family,
            embed=embed,
        ),
        "## How it was made\n\n" + _made(shared),
        _LIMITS,
        "## Licence\n\n" + _licence_text(shared, license),
    ]
    data = _data(shared, files, license)
    return ModelCard(
        "---\n" + data.to_yaml() + "\n---\n\n" + "\n\n".join(part.strip() for part in text) + "\n"
    )


def _data(
    shared: ArtifactHeader, files: Mapping[str, tuple[EditResult, int]], given: str | None
) -> ModelCardData:
    if given is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", given):
        raise OptionError(f"license is {given!r}; allowed is an identifier of the Hub, such as apache-2.0")
    more: dict[str, Any] = {"license": given or ("apache-2.0" if shared.backbone in EMBEDDED else "other")}
    if shared.revision:
        more["base_model"] = visible(shared.backbone)
    if more["license"] == "other" and given is None:
        more["license_name"] = "that-of-the-base-model"
        more["license_link"] = _page(shared.backbone) if shared.revision else CARD
    if files:
        more["widget"] = [
            {"text": result.prompt, "output": {"url": path}} for path, (result, _) in files.items()
        ]
    return ModelCardData(
        library_name="hiper",
        pipeline_tag="text-to-image",
        tags=["hiper", visible(shared.method), visible(shared.family), "personalization", "image-editing"],
        **more,
    )


def _pictures(files: Mapping[str, tuple[EditResult, int]]) -> list[str]:
    if not files:
        return []
    rows = [
        "## Pictures",
        "",
        "| | prompt | seed | strength | guidance scale | inference steps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path, (result, number) in files.items():
        drawn = result.settings
        rows.append(
            f"| ![]({path}) | {_plain(result.prompt)} | {result.seeds[number]} | {drawn.strength:zg}"
            f" | {drawn.guidance_scale:zg} | {drawn.num_inference_steps}, {drawn.scheduler} |"
        )
    return ["\n".join(rows)]


def _origin(shared: ArtifactHeader) -> str:
    return f"It was fitted on {_model(shared)} to a picture with the caption “{_plain(shared.caption)}”."


def _made(shared: ArtifactHeader) -> str:
    values = {
        "method": shared.method,
        **shared.options,
        **{f"edit, {name}": value for name, value in shared.edit.items()},
        **{name: f"{value:z.4g}" for name, value in shared.figures.items()},
        **{f"{name} version": value for name, value in shared.versions.items()},
        "created": shared.created,
    }
    return "\n".join(f"- {_plain(name)}: {_plain(str(value))}" for name, value in values.items())


def _licence_text(shared: ArtifactHeader, given: str | None) -> str:
    if given is not None:
        return (
            f"{given}, chosen by the person who shared it. The licence of {_model(shared)} applies as well."
        )
    if shared.backbone in EMBEDDED:
        return "Apache-2.0, like the model it was fitted on."
    return f"The licence of {_model(shared)} applies, because the tail is of no use without that model."


def _model(shared: ArtifactHeader) -> str:
    name = _plain(shared.backbone)
    return f"[{name}]({_page(shared.backbone)})" if shared.revision else f"`{_quotable(shared.backbone)}`"


def _page(hub_id: str) -> str:
    return f"{constants.ENDPOINT}/{re.sub(r'[^A-Za-z0-9._/-]', '', hub_id)}"


def _plain(text: str) -> str:
    """Return a stranger's text on one line, its Markdown and HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$@-])", r"\\\1", " ".join(visible(text).split()))


def _quotable(text: str) -> str:
    """Return a stranger's text without what would end the quotes of a command or of code."""
    return " ".join(re.sub(r"[\"'`\\$!{}<>]", "", visible(text)).split())
