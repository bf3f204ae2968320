"""Identifiers that sort by time."""

import os
import time
from datetime import datetime


def uuid7() -> str:
    """Return a new UUIDv7 (RFC 9562, 5.7) as text: 48 bits of Unix milliseconds, then random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def first_uuid7(at: datetime) -> str:
    """Return, as text, what no UUIDv7 that is made at `at` (aware) or later is smaller than."""
    milliseconds = max(int(at.timestamp() * 1000), 0)
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"
