"""What is shared: one file per arrangement."""

from polytask.trunks.adapter_layers import Adapter, Bottleneck, LoRA, Parallel, TaskNorm
from polytask.trunks.adapter_tokens import Prefix, Prompt
from polytask.trunks.adapters import Adapters
from polytask.trunks.adashare import AdaShare
from polytask.trunks.aitm import AITM
from polytask.trunks.base import Mixing, Trunk
from polytask.trunks.branched import Branched
from polytask.trunks.branching import plan_branches, stage_sizes
from polytask.trunks.conditioned import Conditioned
from polytask.trunks.cooling import Temperature
from polytask.trunks.cross_stitch import CrossStitch
from polytask.trunks.descriptors import Embedding, Metadata, OneHot, TaskDescriptor
from polytask.trunks.dselect import DSelectK
from polytask.trunks.grouped import Grouped, Separate
from polytask.trunks.hard import HardSharing
from polytask.trunks.hierarchical import Hierarchical
from polytask.trunks.learning_to_branch import LearningToBranch
from polytask.trunks.mmoe import DescribedMoE, MMoE, OMoE
from polytask.trunks.modules import SoftModules
from polytask.trunks.mtan import MTAN
from polytask.trunks.nddr import NDDR
from polytask.trunks.ple import CGC, PLE
from polytask.trunks.routing import MixedTasks, mixed_batch
from polytask.trunks.sluice import Sluice
from polytask.trunks.soft import SoftSharing
from polytask.trunks.sparse import SparseMoE
from polytask.trunks.task_token import TaskToken

METHODS: tuple[type[Trunk], ...] = (
    Separate, HardSharing, Grouped, SoftSharing, CrossStitch, Sluice, NDDR, MTAN, TaskToken,
    OMoE, MMoE, DescribedMoE, CGC, PLE, DSelectK, SparseMoE, SoftModules, Conditioned, Adapters,
    Branched, LearningToBranch, AdaShare, Hierarchical, AITM,
)  # fmt: skip

__all__ = [
    "AITM",
    "AdaShare",
    "Adapter",
    "Adapters",
    "Bottleneck",
    "Branched",
    "CGC",
    "Conditioned",
    "CrossStitch",
    "DSelectK",
    "DescribedMoE",
    "Embedding",
    "Grouped",
    "HardSharing",
    "Hierarchical",
    "LearningToBranch",
    "LoRA",
    "METHODS",
    "MMoE",
    "MTAN",
    "Metadata",
    "MixedTasks",
    "Mixing",
    "NDDR",
    "OMoE",
    "OneHot",
    "PLE",
    "Parallel",
    "Prefix",
    "Prompt",
    "Separate",
    "Sluice",
    "SoftModules",
    "SoftSharing",
    "SparseMoE",
    "TaskDescriptor",
    "TaskNorm",
    "TaskToken",
    "Temperature",
    "Trunk",
    "mixed_batch",
    "plan_branches",
    "stage_sizes",
]
