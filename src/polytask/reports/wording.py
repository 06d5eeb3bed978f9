"""Numbers and names as people read them: rounding, separators, and text that cannot do harm."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

MISSING = "–"
MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
VERDICTS = ("gains", "loses", "not enough evidence", "not learnt")
DOUBT = "†"  # clear alone, not after the correction for many comparisons
MARKS = {"gains": "▲", "loses": "▼", "not enough evidence": "○", "not learnt": "·"}
ROLES = {
    "baseline": "one network per task",
    "joint": "one shared network",
    "groups": "shared within groups",
    "branched": "one network that branches",
    "distilled": "one student of the separate networks",
    "merged": "fine-tuned copies, merged",
    "reference": "outside reference",
}

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_BIDI = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF])


def finite(value: object) -> float | None:
    """The number, or None for null, text, booleans, NaN and infinities."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def clean(text: object) -> str:
    r"""One line without terminal codes, control characters or direction overrides.

    >>> clean("\x1b[31mred\x1b[0m\tprice\x00")
    'red price'
    """
    plain = _ANSI.sub("", "" if text is None else str(text)).translate(_BIDI)
    plain = "".join(" " if c in "\t\n\r\u2028\u2029" else c for c in plain)
    return "".join(c for c in plain if unicodedata.category(c) not in ("Cc", "Cs")).strip()


def name(text: object, limit: int = 80) -> str:
    """A name for people: cleaned, shortened in the middle so that endings stay apart.

    >>> name("a" * 50 + "_left", limit=12)
    'aaaaaa…_left'
    """
    plain = clean(text) or "(no name)"
    if len(plain) <= limit:
        return plain
    tail = (limit - 1) // 2
    return plain[: limit - 1 - tail] + "…" + plain[len(plain) - tail :]


def prose(text: object, limit: int = 1500) -> str:
    """A sentence whose monster words are shortened, so that one name cannot bury the verdict."""
    words = [name(word, 80) if word else word for word in clean(text).split(" ")]
    sentence = " ".join(words)
    return sentence if len(sentence) <= limit else sentence[: limit - 1] + "…"


def width(text: str) -> float:
    """About how wide a text is, in units of the font size (sans serif)."""
    return sum(_em(c) for c in text)


def fit(text: object, ems: float) -> str:
    """A name shortened in the middle until it is at most so many font sizes wide."""
    plain = name(text, 200)
    limit = len(plain)
    while limit > 3 and width(name(plain, limit)) > ems:
        limit -= 1
    return name(plain, limit)


def _em(c: str) -> float:
    if unicodedata.category(c) in ("Mn", "Me", "Cf"):
        return 0.0
    if unicodedata.east_asian_width(c) in "WF" or ord(c) >= 0x1F000:
        return 1.05
    if c in "mwMWQO@%—…":
        return 0.9
    return 0.38 if c in "iljftrI.,:;|!'()[] " else 0.68 if c.isupper() or ord(c) > 0x2FF else 0.57


def number(value: object, digits: int = 4) -> str:
    """A number to so many significant digits, with thin thousands separators.

    >>> number(9.15), number(0.0412345), number(None)
    ('9.150', '0.04123', '–')
    """
    x = finite(value)
    if x is None:
        return MISSING
    if isinstance(x, int):
        return _grouped(x, 0)
    if x == 0:
        return "0"
    if not 1e-4 <= abs(x) < 1e12:
        mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    exponent10 = int(f"{x:.{digits - 1}e}".split("e")[1])
    return _grouped(x, max(0, digits - 1 - exponent10))


def plain_number(value: object) -> str:
    """A setting as it was written: no padding, no separators; text passes through."""
    x = finite(value)
    return prose(value, 60) or MISSING if x is None else f"{x:.6g}"


def percent(value: object, low: object = None, high: object = None) -> str:
    """A signed percentage and, where known, its interval; all three to the same decimals.

    >>> percent(2.1, 0.3, 3.9), percent(-12, None, None), percent(None)
    ('+2.10 % [+0.30, +3.90]', '−12.00 %', '–')
    """
    x, lo, hi = finite(value), finite(low), finite(high)
    if x is None:
        return MISSING
    decimals = _decimals([v for v in (x, lo, hi) if v is not None])
    shown = f"{_signed(x, decimals)} %"
    return shown if lo is None or hi is None else f"{shown} [{_signed(lo, decimals)}, {_signed(hi, decimals)}]"


def share(value: object) -> str:
    """A share between 0 and 1 as a percentage."""
    x = finite(value)
    return MISSING if x is None else f"{100 * x:.0f} %"


def ratio(value: object, base: object) -> str:
    """How many times the base, such as 0.41×; empty where either is unknown or the base is zero."""
    x, b = finite(value), finite(base)
    if x is None or b is None or b <= 0:
        return ""
    return f"{number(float(x / b), 2)}×"


def duration(value: object) -> str:
    """Seconds as people say them.

    >>> duration(61.2), duration(725), duration(7260)
    ('61.2 s', '12 min 5 s', '2 h 1 min')
    """
    x = finite(value)
    if x is None:
        return MISSING
    if x < 120:
        return f"{number(float(x), 3)} s"
    whole = round(x)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{_grouped(whole // 3600, 0)} h {whole % 3600 // 60} min"


def _decimals(values: Sequence[float]) -> int:
    largest = max(abs(v) for v in values)
    return 0 if largest >= 1000 else 1 if largest >= 100 else 2


def _signed(x: float, decimals: int) -> str:
    rounded = round(float(x), decimals)
    return ("+" if rounded > 0 else "") + _grouped(rounded if rounded else 0.0, decimals)


def _grouped(x: float, decimals: int) -> str:
    return f"{x:,.{decimals}f}".replace(",", THIN).replace("-", MINUS)
