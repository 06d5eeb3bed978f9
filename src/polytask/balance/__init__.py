"""How the tasks agree on one step: one file per method."""

from polytask.balance.aligned import AlignedMTL
from polytask.balance.base import Balancer, GramBalancer, JacobianBalancer, LossBalancer
from polytask.balance.cagrad import CAGrad
from polytask.balance.fairgrad import FairGrad, NashMTL
from polytask.balance.fixed import Equal, Manual
from polytask.balance.graddrop import GradDrop
from polytask.balance.gradvac import GradVac
from polytask.balance.imtlg import IMTLG, ConFIG
from polytask.balance.logging import LogGramian
from polytask.balance.mgda import MGDA
from polytask.balance.pcgrad import PCGrad
from polytask.balance.sdmgrad import SDMGrad
from polytask.balance.uncertainty import UncertaintyWeighting
from polytask.balance.upgrad import DualProj, UPGrad

METHODS: tuple[type[Balancer], ...] = (
    *(Equal, Manual, UncertaintyWeighting),
    *(PCGrad, GradVac, MGDA, UPGrad, DualProj, CAGrad, NashMTL, FairGrad, IMTLG, ConFIG, AlignedMTL, SDMGrad),
    GradDrop,
)
"""What `polytask methods`, the command line, the docs table and the property suite find by themselves."""

__all__ = [
    "IMTLG",
    "METHODS",
    "MGDA",
    "AlignedMTL",
    "Balancer",
    "CAGrad",
    "ConFIG",
    "DualProj",
    "Equal",
    "FairGrad",
    "GradDrop",
    "GradVac",
    "GramBalancer",
    "JacobianBalancer",
    "LogGramian",
    "LossBalancer",
    "Manual",
    "NashMTL",
    "PCGrad",
    "SDMGrad",
    "UPGrad",
    "UncertaintyWeighting",
]
