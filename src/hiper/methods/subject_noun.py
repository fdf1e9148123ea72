"""Which word of a sentence names the subject, and another one in its place."""

from __future__ import annotations

import re

from hiper.errors import OptionError

_PICTURES = (
    *("drawing", "illustration", "image", "painting", "photo", "photograph", "picture", "portrait"),
    *("rendering", "sketch", "watercolor"),
)
_AFTER = (
    *("above", "across", "against", "at", "before", "behind", "below", "beside", "by", "during"),
    *("for", "from", "in", "inside", "near", "next", "of", "on", "over", "that", "through", "to", "under"),
    *("while", "who", "with"),
)


def noun_of(caption: str) -> str:
    """Return the subject's noun: the last word before the first preposition or comma, after "a photo of" and the like.

    For "a pencil sketch of a standing dog in a meadow" that is "dog".

    Raises:
        OptionError: There is none.
    """
    last = ""
    for word in re.findall(r"\w[\w'-]*|[,.;:]", caption.lower()):
        if word == "of" and last in _PICTURES:
            last = ""
        elif word in _AFTER or not word[0].isalnum():
            break
        else:
            last = word
    if not last:
        raise OptionError(f"the caption {caption!r} names no subject; say by noun=WORD which word it is")
    return last


def with_word(sentence: str, noun: str, replacement: str) -> str:
    """Replace the noun of a sentence wherever it occurs, in upper or lower case.

    Raises:
        OptionError: The sentence does not have the noun.
    """
    changed, count = re.subn(
        rf"(?<!\w){re.escape(noun)}(?!\w)", lambda _: replacement, sentence, flags=re.IGNORECASE
    )
    if not count:
        raise OptionError(
            f"the sentence {sentence!r} does not say {noun!r}, the caption's word for the subject; write that word,"
            " or fit again with noun=WORD"
        )
    return changed
