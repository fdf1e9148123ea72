"""Damage to sound bytes, as a tape of six-byte instructions says: short tapes are simple damage."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1)
TOKENS = (
    *(
        b'"',
        b"{",
        b"}",
        b"null",
        b"NaN",
        b"-1e999",
        b"true",
        b"\\ud800",
        b"\0",
        b"\xff\xfe",
        b"../../x",
        b"\n[[a]]\n",
    ),
    *(
        b"[" * 3000,
        b'{"a":' * 3000,
        b"9" * 5000,
        b"a" * 5000,
        b'"hiper.schema":"2",',
        b"<script>",
        "犬".encode(),
    ),
)
_PNG = b"\x89PNG\r\n\x1a\n"

Operation = Callable[[bytearray, int, int, int], None]


def mutated(data: bytes, tape: bytes, others: Sequence[bytes]) -> bytes:
    """Apply the tape; one of odd length also mends the checksums and lengths that would hide the damage."""
    changed = bytearray(data)
    for operation, place, size, value in struct.iter_unpack(">BHBH", tape[: len(tape) // 6 * 6]):
        at = place * (len(changed) + 1) >> 16
        if operation % 8 == 7:
            other = others[value % len(others)]
            changed[at : at + size] = other[at : at + size]
        else:
            _OPERATIONS[operation % 8](changed, at, size, value)
    return mended(bytes(changed)) if len(tape) % 2 else bytes(changed)


def _overwrite(data: bytearray, at: int, size: int, value: int) -> None:
    data[at : at + 1] = bytes([value & 0xFF])


def _flip(data: bytearray, at: int, size: int, value: int) -> None:
    data[at : at + 1] = bytes(byte ^ 1 << size % 8 for byte in data[at : at + 1])


def _cut_out(data: bytearray, at: int, size: int, value: int) -> None:
    del data[at : at + size]


def _repeat(data: bytearray, at: int, size: int, value: int) -> None:
    data[at:at] = data[at : at + size] * (value % 9)


def _number(data: bytearray, at: int, size: int, value: int) -> None:
    width = 1 << size % 4
    number = NUMBERS[value % len(NUMBERS)] % 256**width
    data[at : at + width] = number.to_bytes(width, "big" if size & 4 else "little")


def _truncate(data: bytearray, at: int, size: int, value: int) -> None:
    del data[at:]


def _token(data: bytearray, at: int, size: int, value: int) -> None:
    data[at : at + (size % 8)] = TOKENS[value % len(TOKENS)]


_OPERATIONS: Sequence[Operation] = (_overwrite, _flip, _cut_out, _repeat, _number, _truncate, _token)


def mended(data: bytes) -> bytes:
    """Make a PNG's checksums and a safetensors file's header length agree with what is there."""
    if data.startswith(_PNG):
        return _mended_png(data)
    if data[8:9] == b"{":
        try:
            _, end = json.JSONDecoder().raw_decode(data[8:].decode("latin-1"))
        except (ValueError, RecursionError):
            return data
        return end.to_bytes(8, "little") + data[8:]
    return data


def _mended_png(data: bytes) -> bytes:
    chunks, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        length = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
        body = data[at + 4 : at + 8 + length]
        chunks.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(chunks)
