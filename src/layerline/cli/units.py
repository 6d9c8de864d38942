"""Rates and times with units, as people write them: `1gbit`, `100MB`, `2ms`."""

from __future__ import annotations

import re

from layerline.errors import UsageError

LINK, LATENCY = "28gbit", "0.1ms"
"""Of a link that nothing is said of: processes on one host."""
_BITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]*)(?:/s|ps)?")


def bytes_per_second(word: str) -> float:
    """`1gbit` and `125MB` are the same; `ideal` is infinity. UsageError for anything else."""
    if word == "ideal":
        return float("inf")
    number, unit = _parts(word)
    rate = number * (_BITS[unit] / 8 if unit in _BITS else _BYTES.get(unit, 0.0))
    if rate <= 0:
        raise UsageError(f"--link: '{word}' is no speed of a link", hint="write it like 1gbit, 100mbit, 12GB, or ideal")
    return rate


def seconds(word: str) -> float:
    """`2ms`, `100us`, `0.1s`, `0`. UsageError for anything else."""
    number, unit = _parts(word)
    if number == 0:
        return 0.0
    if unit not in _SECONDS:
        raise UsageError(f"--latency: '{word}' is no time", hint="write it like 2ms, 100us or 0.1s")
    return number * _SECONDS[unit]


def _parts(word: str) -> tuple[float, str]:
    found = _NUMBER.fullmatch(word.lower())
    return (float(found[1]), found[2]) if found else (-1.0, "")


def size(count: float) -> str:
    """Bytes for people: `54.3 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"


def duration(count: float) -> str:
    """Seconds for people: `0.21 s`, `5 min 12 s`, `3 h 26 min`. Less than a nanosecond is what rounding leaves of 0."""
    if count < 1e-9:
        return "0 s"
    if count < 100:
        return f"{count:.3g} s"
    whole = round(count)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{count / 86400:.1f} days"
