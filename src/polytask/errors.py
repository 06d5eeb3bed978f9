"""The errors that speak to the user: one clear sentence that names the task, column or shape and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot be used. The command line prints the sentence and exits with 2."""


class TrainingError(RuntimeError):
    """A training could not go on (for example twenty non-finite losses in a row)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that ends an error sentence.

    >>> nearest("prize", ["price", "click"])
    "; did you mean 'price'?"
    >>> nearest("qqq", ["price", "click"])
    "; known: 'click', 'price'"
    """
    known = sorted(name if len(name) <= 60 else f"{name[:57]}..." for name in known)
    lowered = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1)
    if close:
        return f"; did you mean '{lowered[close[0]]}'?"
    listed = ", ".join(f"'{name}'" for name in known[:12])
    return f"; known: {listed}" + (f" and {len(known) - 12} more" if len(known) > 12 else "") if known else ""


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed."""
    return UserError(f'{purpose} needs {package}: install it with  pip install "polytask[{extra}]"')
