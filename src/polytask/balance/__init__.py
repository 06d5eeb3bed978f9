"""How the tasks agree on one step: one file per method."""

from polytask.balance.base import Balancer, GramBalancer, JacobianBalancer, LossBalancer
from polytask.balance.fixed import Equal, Manual
from polytask.balance.graddrop import GradDrop
from polytask.balance.logging import LogGramian
from polytask.balance.mgda import MGDA
from polytask.balance.pcgrad import PCGrad
from polytask.balance.uncertainty import UncertaintyWeighting

METHODS: tuple[type[Balancer], ...] = (Equal, Manual, UncertaintyWeighting, PCGrad, MGDA, GradDrop)
"""What `polytask methods`, the command line, the docs table and the property suite find by themselves."""

__all__ = [
    "METHODS",
    "MGDA",
    "Balancer",
    "Equal",
    "GradDrop",
    "GramBalancer",
    "JacobianBalancer",
    "LogGramian",
    "LossBalancer",
    "Manual",
    "PCGrad",
    "UncertaintyWeighting",
]
