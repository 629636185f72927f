"""How numbers are shown to people: digits, units, durations, sizes and dates.

A value's unit is read off its name (`bytes_after`, `seconds`, `trainable_share`), so steps leave plain numbers and
every place that shows them agrees. Sizes are decimal: 1 MB is 1,000,000 bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeGuard

Unit = Literal["bytes", "seconds", "MB", "GB", "share"]

NOTHING = "–"
# Not strftime's names: those depend on the locale.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def unit_of(name: str) -> Unit | None:
    """The unit a name implies, or None for a bare number.

    A rate (`bytes per token`) or a unit already spelled out (`size in MB`) is a bare number.
    """
    words = re.findall(r"[a-z%]+", name.lower().replace("_", " "))
    if not words or "per" in words or "in" in words:
        return None
    if "bytes" in words:
        return "bytes"
    if "seconds" in words:
        return "seconds"
    if "share" in words:
        return "share"
    if "_" in name and words[-1] == "mb":
        return "MB"
    if "_" in name and words[-1] == "gb":
        return "GB"
    return None


def label(name: str) -> str:
    """A name for the eye: `bytes_before` is shown as ``size before``, `tokens_per_second` as ``tokens per second``."""
    words = name.replace("_", " ").strip()
    unit = unit_of(name)
    if unit == "bytes":
        words = re.sub(r"\b([Bb])ytes\b", lambda m: "Size" if m[1] == "B" else "size", words)
    elif unit == "seconds":
        words = re.sub(r"\b([Ss])econds\b", lambda m: "Time" if m[1] == "S" else "time", words)
    elif unit in ("MB", "GB"):
        words = words[:-3]
    return words


def number(value: float) -> str:
    """Up to four significant digits for a fraction, all digits with thousands separators for a whole number."""
    if isinstance(value, int):
        return _minus(f"{value:,}")
    if not math.isfinite(value):
        return NOTHING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-4:
        mantissa, exponent = f"{value:.3e}".split("e")
        shown = f"{float(mantissa):g}e{int(exponent)}"
    elif size >= 1000:
        shown = f"{value:,.0f}"
    elif len(f"{size:.10g}".replace(".", "").lstrip("0")) <= 4:
        shown = f"{value:.10g}"  # a chosen number such as 0.9, not a measured one
    else:
        shown = f"{value:.{_decimals(size)}f}"
    return _minus(shown)


def _minus(shown: str) -> str:
    return "−" + shown[1:] if shown.startswith("-") else shown


def _decimals(size: float) -> int:
    """Decimals that leave four significant digits of a size below 1e9."""
    return max(0, 3 - math.floor(math.log10(size))) if size > 0 else 0


def byte_size(value: float) -> str:
    """Bytes as bytes, kB, MB or, from ten of them on, GB."""
    size = abs(value)
    if size < 1000:
        return f"{number(round(value))} bytes"
    if size < 1e5:
        return f"{number(round(value / 1e3, 1))} kB"
    if size < 1e10:
        return _minus(f"{value / 1e6:,.{2 if size < 1e7 else 1}f} MB")
    return _minus(f"{value / 1e9:,.1f} GB")


def duration(seconds: float) -> str:
    """Seconds in words: ``42 ms``, ``4.2 s``, ``1 min 12 s``, ``2 h 05 min``."""
    if seconds < 0:
        return "−" + duration(-seconds)
    if seconds == 0:
        return "0 s"
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(text: str) -> str:
    """An ISO 8601 time as ``1 March 2026, 14:05 UTC``; any other text unchanged."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {time.tzname()}" if time.tzinfo else ""
    return f"{time.day} {_MONTHS[time.month - 1]} {time.year}, {time:%H:%M}{zone}"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number; True and False aren't."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def show(value: Any, name: str = "") -> str:
    """Any JSON-able value as text, with the unit its name implies.

    Args:
        value: A number, text, truth value, list, mapping or None. A list of two numbers is an interval.
        name: What the value is called.
    """
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return _with_unit(value, unit_of(name))
    if isinstance(value, dict):
        return ", ".join(f"{label(str(k))} {show(v, str(k))}" for k, v in value.items()) or NOTHING
    if isinstance(value, (list, tuple)):
        between = " to " if len(value) == 2 and all(is_number(v) for v in value) else ", "
        return between.join(show(v, name) for v in value) or NOTHING
    return str(value)


def _with_unit(value: float, unit: Unit | None) -> str:
    if not math.isfinite(value):
        return number(value)
    if unit == "bytes":
        return byte_size(value)
    if unit == "seconds":
        return duration(value)
    if unit == "share":
        return f"{number(float(f'{100 * value:.3g}'))} %"
    if unit in ("MB", "GB"):
        return _minus(f"{value:,.{0 if abs(value) >= 100 else 1}f} {unit}")
    return number(value)


def show_column(values: Sequence[Any], column: str, rows: Sequence[str]) -> list[str]:
    """The cells of one table column; bare fractions of similar size get the same number of decimals.

    Args:
        values: The cells.
        column: The column's name; its unit goes before those of the rows.
        rows: Each row's name, for tables that hold one figure a row.
    """
    names = [column if unit_of(column) else row for row in rows]
    bare = [v for v, name in zip(values, names) if is_number(v) and math.isfinite(v) and not unit_of(name)]
    sizes = [abs(v) for v in bare if v]
    if sizes and any(isinstance(v, float) for v in bare):
        decimals = min(_decimals(max(sizes)), 4)
        # The smallest value must keep two significant digits, or the cells are too different to share a form.
        if max(sizes) < 1e6 and min(sizes) >= 10.0 ** (1 - decimals):
            while decimals and all(round(v, decimals) == round(v, decimals - 1) for v in bare):
                decimals -= 1
            return [
                _minus(f"{v:,.{decimals}f}")
                if is_number(v) and math.isfinite(v) and not unit_of(name)
                else show(v, name)
                for v, name in zip(values, names)
            ]
    return [show(v, name) for v, name in zip(values, names)]
