"""How the tasks agree on one step: one file per method."""

from polytask.balance.aligned import AlignedMTL
from polytask.balance.base import Balancer, GramBalancer, JacobianBalancer, LossBalancer
from polytask.balance.cagrad import CAGrad
from polytask.balance.dwa import DWA
from polytask.balance.fairgrad import FairGrad, NashMTL
from polytask.balance.fixed import Equal, Manual
from polytask.balance.geometric import GeometricMean, LogSum
from polytask.balance.graddrop import GradDrop
from polytask.balance.gradvac import GradVac
from polytask.balance.imtlg import IMTLG, ConFIG
from polytask.balance.imtll import IMTLL
from polytask.balance.logging import LogGramian
from polytask.balance.mgda import MGDA
from polytask.balance.pcgrad import PCGrad
from polytask.balance.relative import LBTW, InitialLoss
from polytask.balance.rlw import RLW
from polytask.balance.sdmgrad import SDMGrad
from polytask.balance.stch import STCH
from polytask.balance.uncertainty import UncertaintyWeighting
from polytask.balance.upgrad import DualProj, UPGrad

METHODS: tuple[type[Balancer], ...] = (
    *(Equal, Manual, InitialLoss, GeometricMean, LogSum, UncertaintyWeighting, IMTLL, DWA, RLW, LBTW, STCH),
    *(PCGrad, GradVac, MGDA, UPGrad, DualProj, CAGrad, NashMTL, FairGrad, IMTLG, ConFIG, AlignedMTL, SDMGrad),
    GradDrop,
)
"""What `polytask methods`, the command line, the docs table and the property suite find by themselves."""

__all__ = [
    "DWA",
    "IMTLG",
    "IMTLL",
    "LBTW",
    "METHODS",
    "MGDA",
    "RLW",
    "STCH",
    "AlignedMTL",
    "Balancer",
    "CAGrad",
    "ConFIG",
    "DualProj",
    "Equal",
    "FairGrad",
    "GeometricMean",
    "GradDrop",
    "GradVac",
    "GramBalancer",
    "InitialLoss",
    "JacobianBalancer",
    "LogGramian",
    "LogSum",
    "LossBalancer",
    "Manual",
    "NashMTL",
    "PCGrad",
    "SDMGrad",
    "UPGrad",
    "UncertaintyWeighting",
]
