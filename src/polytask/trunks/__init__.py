"""What is shared: one file per arrangement."""

from polytask.trunks.base import Mixing, Trunk
from polytask.trunks.experts import MMoE
from polytask.trunks.grouped import Grouped, Separate
from polytask.trunks.hard import HardSharing

METHODS: tuple[type[Trunk], ...] = (HardSharing, Separate, Grouped, MMoE)

__all__ = ["METHODS", "Grouped", "HardSharing", "MMoE", "Mixing", "Separate", "Trunk"]
