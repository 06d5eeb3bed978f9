"""Checks that a method of one's own keeps the promises that polytask's methods keep."""

from polytask.testing.balancers import BALANCER_CHECKS, check_balancer
from polytask.testing.samplers import SAMPLER_CHECKS, check_sampler
from polytask.testing.trunks import TRUNK_CHECKS, check_trunk

__all__ = ["BALANCER_CHECKS", "SAMPLER_CHECKS", "TRUNK_CHECKS", "check_balancer", "check_sampler", "check_trunk"]
