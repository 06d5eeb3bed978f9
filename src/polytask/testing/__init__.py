"""Checks that a method of one's own keeps the promises that polytask's methods keep."""

from polytask.testing.trunks import TRUNK_CHECKS, check_trunk

__all__ = ["TRUNK_CHECKS", "check_trunk"]
