"""What is shared: one file per arrangement."""

from polytask.trunks.base import Trunk
from polytask.trunks.experts import MMoE
from polytask.trunks.grouped import Grouped
from polytask.trunks.hard import HardSharing

METHODS: tuple[type[Trunk], ...] = (HardSharing, MMoE, Grouped)

__all__ = ["METHODS", "Grouped", "HardSharing", "MMoE", "Trunk"]
