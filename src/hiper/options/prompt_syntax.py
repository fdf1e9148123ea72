"""Find the syntax by which other programs weigh and mix the words of a prompt: to hiper it is plain words."""

from __future__ import annotations

import re

_KINDS = (
    r"[(\[][^()\[\]]*(?<!\d):\s*-?\d*\.?\d+\s*[)\]]",  # (word:1.3), [from:to:0.5] of the AUTOMATIC1111 web UI
    r"\([^()]*\)-?\d*\.\d+",  # (word)1.3 of compel and InvokeAI
    r"\(\(.*?\)\)|\[\[.*?\]\]|\{\{.*?\}\}",  # ((word)), [[word]], {{word}} of NovelAI
    r"[\[{][^\[\]{}]*\|[^\[\]{}]*[\]}]",  # [a|b] alternates, {a|b} chooses
    r"\[[^\[\]|]*[^\W\d][^\[\]|]*\]",  # [word] is weighted less
    r"<(?:lora|lyco|hypernet|lbw|embedding)s?:[^<>]*>",
    r"\bembedding:[\w./-]+",  # ComfyUI
    r"\b(?:BREAK|ADDCOMM|ADDBASE|ADDCOL|ADDROW)\b",
    r"(?<=\w)\s+AND\s+(?=\w)",  # composed prompts
    r"[^\W\d]{2,}(?:\+\+|--)(?!\w)|\)[+-]+(?!\w)",  # word++, (a b)- of compel
    r"\)\.(?:and|blend|swap)\(",
    r"__[\w/*-]+__",  # wildcards
    r"\\[()\[\]]",  # escaped brackets
)
_SYNTAX = re.compile("|".join(_KINDS))


def prompt_syntax(text: str) -> str:
    """Return the first piece of another program's syntax in a text, shortened; "" where there is none."""
    found = _SYNTAX.search(text)
    return found[0].strip()[:40] if found else ""
