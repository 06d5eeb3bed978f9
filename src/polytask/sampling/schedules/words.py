"""Numbers and names in the words of schedules: "temperature:5", "ratios:click=3,buy=1"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polytask.errors import UserError, nearest


def number(text: str, what: str) -> float:
    """The number behind the colon.

    >>> number("5", "temperature")
    5.0
    """
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{what} needs a number where it got '{text}'") from None


def numbers(text: str, what: str) -> dict[str, float]:
    """Tasks and their numbers.

    >>> numbers("click=3,buy=1", "ratios")
    {'click': 3.0, 'buy': 1.0}
    """
    found = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        if not equals:
            raise UserError(f"{what} needs a number for each task, as in {what}:click=3,buy=1, got '{text}'")
        found[name.strip()] = number(value, what)
    return found


def name_and_number(text: str, what: str, default: float) -> tuple[str, float]:
    """A task (or a measure), and after a comma a number.

    >>> name_and_number("click,0.5", "thompson", 0.3), name_and_number("click", "thompson", 0.3)
    (('click', 0.5), ('click', 0.3))
    """
    name, comma, value = (part.strip() for part in text.partition(","))
    if not name:
        raise UserError(f"{what} needs a name behind the colon, as in {what}:click or {what}:click,{default}")
    return name, number(value, what) if comma else default


def given(values: Mapping[str, float], tasks: Sequence[str], what: str) -> list[float]:
    """The values of these tasks, in their order; each task must have one."""
    for name in tasks:
        if name not in values:
            raise UserError(f"{what}: task '{name}' has no number{nearest(name, values)}")
    return [float(values[name]) for name in tasks]


def shares(weights: Sequence[float]) -> Tensor:
    """(T,) float64 of sum 1, in proportion to the weights."""
    numbers = torch.tensor(weights, dtype=torch.float64)
    if not bool(torch.isfinite(numbers).all() and (numbers >= 0).all() and numbers.sum() > 0):
        raise UserError(f"probabilities need finite weights of at least 0, one of them above it, got {list(weights)}")
    return numbers / numbers.sum()
