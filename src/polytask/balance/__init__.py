"""How the tasks agree on one step: one file per method."""

from polytask.balance.aligned import AlignedMTL
from polytask.balance.averaged import AveragedGramian
from polytask.balance.base import Balancer, GramBalancer, JacobianBalancer, LossBalancer
from polytask.balance.cagrad import CAGrad
from polytask.balance.clipped import Clipped
from polytask.balance.dbmtl import DBMTL
from polytask.balance.dwa import DWA
from polytask.balance.effective import SizeWeights
from polytask.balance.excess import ExcessMTL
from polytask.balance.faded import Faded
from polytask.balance.fairgrad import FairGrad, NashMTL
from polytask.balance.famo import FAMO
from polytask.balance.fixed import Equal, InverseSize, Manual
from polytask.balance.geometric import GeometricMean, LogSum
from polytask.balance.graddrop import GradDrop
from polytask.balance.gradnorm import GradNorm
from polytask.balance.gradvac import GradVac
from polytask.balance.heads import WeightedHeads
from polytask.balance.imtl import IMTL
from polytask.balance.imtlg import IMTLG, ConFIG
from polytask.balance.imtll import IMTLL
from polytask.balance.logging import LogGramian
from polytask.balance.look_ahead import LookAhead
from polytask.balance.mgda import MGDA
from polytask.balance.moco import MoCo
from polytask.balance.modo import MoDo
from polytask.balance.momentum import MomentumConFIG
from polytask.balance.normalised import NormalisedLosses
from polytask.balance.pcgrad import PCGrad
from polytask.balance.probed import Probed
from polytask.balance.refresh import RefreshEvery
from polytask.balance.relative import LBTW, InitialLoss
from polytask.balance.rlw import RLW
from polytask.balance.sdmgrad import SDMGrad, StochasticSDMGrad
from polytask.balance.stch import STCH
from polytask.balance.torchjd import from_torchjd
from polytask.balance.uncertainty import UncertaintyWeighting
from polytask.balance.upgrad import DualProj, UPGrad
from polytask.balance.validation import DTP, InverseValidation

METHODS: tuple[type[Balancer], ...] = (
    *(Equal, Manual, InverseSize, SizeWeights, InitialLoss, GeometricMean, LogSum, UncertaintyWeighting, IMTLL, DWA),
    *(RLW, LBTW, STCH, FAMO, DTP, InverseValidation, GradNorm, IMTL),
    *(PCGrad, GradVac, MGDA, UPGrad, DualProj, CAGrad, NashMTL, FairGrad, IMTLG, ConFIG, AlignedMTL, SDMGrad),
    *(StochasticSDMGrad, MoDo, GradDrop, ExcessMTL, DBMTL, MoCo, MomentumConFIG),
)
"""What `polytask methods`, the command line, the docs table and the property suite find by themselves."""

__all__ = [
    "DBMTL",
    "DTP",
    "DWA",
    "FAMO",
    "IMTL",
    "IMTLG",
    "IMTLL",
    "LBTW",
    "METHODS",
    "MGDA",
    "RLW",
    "STCH",
    "AlignedMTL",
    "AveragedGramian",
    "Balancer",
    "CAGrad",
    "Clipped",
    "ConFIG",
    "DualProj",
    "Equal",
    "ExcessMTL",
    "Faded",
    "FairGrad",
    "GeometricMean",
    "GradDrop",
    "GradNorm",
    "GradVac",
    "GramBalancer",
    "InitialLoss",
    "InverseSize",
    "InverseValidation",
    "JacobianBalancer",
    "LogGramian",
    "LookAhead",
    "LogSum",
    "LossBalancer",
    "Manual",
    "MoCo",
    "MoDo",
    "MomentumConFIG",
    "NashMTL",
    "NormalisedLosses",
    "PCGrad",
    "Probed",
    "RefreshEvery",
    "SDMGrad",
    "SizeWeights",
    "StochasticSDMGrad",
    "UPGrad",
    "UncertaintyWeighting",
    "WeightedHeads",
    "from_torchjd",
]
