"""What is shared: one file per arrangement."""

from polytask.trunks.base import Mixing, Trunk
from polytask.trunks.cross_stitch import CrossStitch
from polytask.trunks.dselect import DSelectK
from polytask.trunks.grouped import Grouped, Separate
from polytask.trunks.hard import HardSharing
from polytask.trunks.mmoe import MMoE, OMoE
from polytask.trunks.modules import SoftModules
from polytask.trunks.mtan import MTAN
from polytask.trunks.nddr import NDDR
from polytask.trunks.ple import CGC, PLE
from polytask.trunks.sluice import Sluice
from polytask.trunks.soft import SoftSharing
from polytask.trunks.sparse import SparseMoE
from polytask.trunks.task_token import TaskToken

METHODS: tuple[type[Trunk], ...] = (
    Separate, HardSharing, Grouped, SoftSharing, CrossStitch, Sluice, NDDR, MTAN, TaskToken,
    OMoE, MMoE, CGC, PLE, DSelectK, SparseMoE, SoftModules,
)  # fmt: skip

__all__ = [
    "CGC",
    "METHODS",
    "MTAN",
    "NDDR",
    "PLE",
    "CrossStitch",
    "DSelectK",
    "Grouped",
    "HardSharing",
    "MMoE",
    "Mixing",
    "OMoE",
    "Separate",
    "Sluice",
    "SoftModules",
    "SoftSharing",
    "SparseMoE",
    "TaskToken",
    "Trunk",
]
