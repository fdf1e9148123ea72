"""Read the header of a safetensors file: the one reader, for artifacts and for models; it needs no torch."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

MAX_HEADER = 1_000_000
START = 8
"""Bytes before the header: its length, an unsigned little-endian integer."""


def read_header(file: BinaryIO, most: int = MAX_HEADER) -> tuple[dict[str, Any], int]:
    """Read the table at the start of a safetensors file.

    Args:
        file: At its start.
        most: Bytes that the table may take.

    Returns:
        The table, name -> {dtype, shape, data_offsets}, with "__metadata__", and the bytes that the whole file must
        have.

    Raises:
        ValueError: What is wrong with it.
    """
    length = int.from_bytes(file.read(START), "little")
    if length > most:
        raise ValueError(f"its header is {length} bytes long; at most {most} are read")
    text = file.read(length)
    if len(text) < length:
        raise ValueError(f"it ends at byte {START + len(text)}, its header at {START + length}")
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError) as error:  # broken text, broken JSON, a number or a nest without end
        raise ValueError(f"its header cannot be read from byte {START + _place(error)} on") from error
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    return header, START + length + max(map(_end, header.values()), default=0)


def _place(error: ValueError | RecursionError) -> int:
    if isinstance(error, UnicodeDecodeError):
        return error.start
    if isinstance(error, json.JSONDecodeError):
        return len(error.doc[: error.pos].encode())
    return 0


def _end(entry: object) -> int:
    match entry:
        case {"data_offsets": [int(), int(end)]} if end < 2**63:
            return end
    return 0
