"""The engine: which parameters several losses share, their task gradients, the Gramian, and the way back to `.grad`."""

from polytask.gradients.blocks import SharedBlock, accumulate
from polytask.gradients.engine import TaskGradients, gramian, task_gradients, total_gram
from polytask.gradients.fused import fused_heads
from polytask.gradients.graph import Reach, reaches
from polytask.gradients.parts import chunked_gram

__all__ = [
    "Reach",
    "SharedBlock",
    "TaskGradients",
    "accumulate",
    "chunked_gram",
    "fused_heads",
    "gramian",
    "reaches",
    "task_gradients",
    "total_gram",
]
