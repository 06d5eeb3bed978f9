"""Checks that a method of one's own keeps the promises that polytask's methods keep."""

__all__: list[str] = []
