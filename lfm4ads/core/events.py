"""Scalars as an event file, which TensorBoard shows; written here, so that training needs no more.

The format is a chain of TFRecords (length, its checksum, bytes, their checksum; all little-endian)
whose bytes are ``Event`` messages of Protocol Buffers with ``Summary`` values inside.
"""

import math
import struct
import time
from pathlib import Path

_POLYNOMIAL = 0x82F63B78
"""Castagnoli's, reflected."""
_MASK = 0xFFFFFFFF


def _remainders() -> tuple[int, ...]:
    found: list[int] = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = (rest >> 1) ^ (_POLYNOMIAL if rest & 1 else 0)
        found.append(rest)
    return tuple(found)


_TABLE = _remainders()


class EventFile:
    """Appends scalars to the one event file of a folder."""

    def __init__(self, folder: Path) -> None:
        """Start a file; those of former attempts go, whose figures the caller writes again."""
        folder.mkdir(parents=True, exist_ok=True)
        for former in folder.glob("events.out.tfevents.*"):
            former.unlink()
        self._path = folder / f"events.out.tfevents.{time.time_ns() // 1_000_000}.lfm4ads"
        self._append([_event(b"\x1a" + _bytes(b"brain.Event:2"), seconds=time.time())])

    def scalars(self, figures: list[tuple[str, int, float | None]]) -> None:
        """Add (tag, step, value); undefined values are NaN, which TensorBoard marks as such."""
        now = time.time()
        self._append([_scalar(tag, step, value, seconds=now) for tag, step, value in figures])

    def _append(self, events: list[bytes]) -> None:
        with self._path.open("ab") as file:
            file.write(b"".join(map(_record, events)))


def _scalar(tag: str, step: int, value: float | None, *, seconds: float) -> bytes:
    number = math.nan if value is None else value
    one = b"\x0a" + _bytes(tag.encode()) + b"\x15" + struct.pack("<f", number)
    summary = b"\x0a" + _bytes(one)
    return _event(b"\x10" + _varint(step) + b"\x2a" + _bytes(summary), seconds=seconds)


def _event(rest: bytes, *, seconds: float) -> bytes:
    return b"\x09" + struct.pack("<d", seconds) + rest


def _bytes(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    """Return the masked CRC-32C: checksums of what holds checksums would be weak."""
    crc = _MASK
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= _MASK
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & _MASK)
