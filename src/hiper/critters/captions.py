"""The caption grammar: what a caption names, and the words that may name an identity.

    [style phrase] a [pose] [identity words] species [background phrase] [with ... eyes] [and a ... collar]

A *bare* caption names species, pose, background and style only; the plain style (a drawing) and the plain background
(a studio) go unsaid. A *full* caption also spells out some of the identity.
"""

from __future__ import annotations

import re

import numpy as np

from hiper.backbones import EMBEDDED
from hiper.critters.world import COLLARS, COLOURS, EYES, PATTERNS, POSES, SPECIES, Identity, Scene

STYLE_PHRASES = {
    "drawing": "",
    "watercolor": "a watercolor of",
    "sketch": "a pencil sketch of",
    "chalk": "a chalk drawing of",
}
BACKGROUND_PHRASES = {
    "studio": "",
    "meadow": "in a meadow",
    "beach": "on the beach",
    "snow": "in the snow",
    "city": "in the city",
    "room": "in a room",
    "forest": "in the forest",
}
_PHRASES = [*STYLE_PHRASES.values(), *BACKGROUND_PHRASES.values()]
_MORE = ["an", "and", "at", "by", "collar", "drawing", "eyes", "is", "photo", "picture", "the", "to", "with"]
WORDS = sorted({*SPECIES, *POSES, *COLOURS, *COLLARS, *EYES, *PATTERNS, *" ".join(_PHRASES).split(), *_MORE})
"""Every word of the grammar, and a few more: each becomes one token."""


def bare_caption(scene: Scene) -> str:
    """Return the caption of a scene without the identity of its animal."""
    return _sentence(scene, [], "")


def species_caption(scene: Scene) -> str:
    """Return the shortest caption: the species alone."""
    return _article(scene.species)


def full_caption(scene: Scene) -> str:
    """Return the caption that spells the whole identity out."""
    return _sentence(
        scene,
        _coat_words(scene.identity, pattern=True, colours=True),
        _details(scene.identity, eyes=True, collar=True),
    )


def training_caption(scene: Scene, rng: np.random.Generator, *, identity_share: float) -> str:
    """Draw a caption for training.

    One in twenty leaves out the pose, so that short captions are known. A collar is left out so seldom that a
    caption with words of identity and none of a collar means that there is none.

    Args:
        scene: What the caption describes.
        rng: Draws which words are left out.
        identity_share: Of captions, 0 to 1, that name a random part of the identity.
    """
    posed = bool(rng.random() > 0.05)
    if rng.random() >= identity_share:
        return _sentence(scene, [], "", posed=posed)
    pattern, colours, eyes, collar = (bool(v) for v in rng.random(4) < (0.85, 0.95, 0.75, 0.96))
    who = scene.identity
    return _sentence(
        scene,
        _coat_words(who, pattern=pattern, colours=colours),
        _details(who, eyes=eyes, collar=collar),
        posed=posed,
    )


def _coat_words(who: Identity, *, pattern: bool, colours: bool) -> list[str]:
    words = [who.pattern] if pattern else []
    return words + ([who.primary, "and", who.secondary] if colours else [])


def _details(who: Identity, *, eyes: bool, collar: bool) -> str:
    parts = [f"{who.eyes} eyes"] if eyes else []
    if collar and who.collar != "none":
        parts.append(f"a {who.collar} collar")
    return "with " + " and ".join(parts) if parts else ""


def _sentence(scene: Scene, coat: list[str], details: str, *, posed: bool = True) -> str:
    noun = " ".join([*([scene.pose] if posed else []), *coat, scene.species])
    parts = [STYLE_PHRASES[scene.style], _article(noun), details, BACKGROUND_PHRASES[scene.background]]
    return " ".join(part for part in parts if part)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def named_attributes(sentence: str) -> dict[str, str]:
    """Find species, pose, background and style in a sentence of any form; unknown words are ignored."""
    text = " ".join(sentence.lower().split())
    phrases = {
        "species": {value: value for value in SPECIES},
        "pose": {value: value for value in POSES},
        "background": BACKGROUND_PHRASES,
        "style": STYLE_PHRASES,
    }
    found = [
        (name, value)
        for name, of in phrases.items()
        for value, phrase in of.items()
        if phrase and f" {phrase} " in f" {text} "
    ]
    return dict(found)


def word_notes(text: str, what: str, backbone: str) -> list[str]:
    """Return notes on words that the embedded model does not know.

    Args:
        text: A caption or prompt.
        what: Names it in the notes.
        backbone: The name of the model; there are no notes for another one.
    """
    if backbone not in EMBEDDED:
        return []
    words = re.findall(r"[^\W\d_]{2,}", text.casefold())
    unknown = [word for word in dict.fromkeys(words) if word not in WORDS]
    if not unknown:
        return []
    text = f"the {what} has words that the embedded model does not know ({', '.join(unknown[:5])})"
    return [f"{text}; it knows only the animals, poses, colours, places and styles of its own world"]
