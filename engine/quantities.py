"""Numbers for people: counts, bytes and spans of time, short enough for a sentence."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)b?", re.IGNORECASE)


def size(number: float | None) -> str:
    """Bytes, e.g. `35.2 MB`."""
    if number is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def parked_words(tables: int) -> str:
    """What follows a job's state, e.g. `, 1 table parked`; nothing when all of them follow."""
    return f", {tables} table{'s' if tables > 1 else ''} parked" if tables else ""


def quarantined_words(rows: int) -> str:
    """What follows then, e.g. `, 2 rows in quarantine`; nothing when there are none."""
    return f", {count(rows)} row{'s' if rows > 1 else ''} in quarantine" if rows else ""


def count(number: float | None) -> str:
    """E.g. `1,234,567`."""
    return "-" if number is None else f"{number:,.0f}"


def milliseconds(number: float | None) -> str:
    """E.g. `1,234 ms`."""
    return "-" if number is None else f"{number:,.0f} ms"


def span(seconds: float | None) -> str:
    """E.g. `0.4 s`, `38 s`, `2 min 5 s`, `3 h 20 min`."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def seconds(text: str) -> float | None:
    """A span of time as people write it: `90s`, `5m`, `1h`, `2d`; None when it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text.strip())
    return None if match is None else float(match[1]) * _UNITS[match[2]]


def in_bytes(text: str) -> int | None:
    """Bytes of a size as `size` writes it: `500MB`, `1.5 TB`, a number alone; None when it is none."""
    match = _SIZE.fullmatch(text.strip())
    return match and round(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))
