"""Parameters and statistics that stand still, and parts that begin anew."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from polytask.errors import UserError
from polytask.training.arranging import Turn
from polytask.training.parts import Parts


class Freezing:
    """Holds everything still but what a turn trains, and puts the caller's `requires_grad` back.

    A frozen parameter has no gradient, so that autograd does not go there and no optimizer sees it. A module whose own
    parameters and buffers are all frozen is in evaluation mode if it has buffers: its statistics stay, and are what it
    normalises with. Dropout has none and goes on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.came = {name: p.requires_grad for name, p in model.named_parameters()}
        names = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self._own = [
            (module, [names[id(t)] for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))])
            for module in model.modules()
            if next(module.buffers(recurse=False), None) is not None
        ]

    @property
    def trainable(self) -> frozenset[str]:
        """What the caller did not freeze."""
        return frozenset(name for name, trained in self.came.items() if trained)

    def hold(self, turn: Turn) -> None:
        """Only what the turn trains can change from now on."""
        for name, p in self.model.named_parameters():
            p.requires_grad_(name in turn.trained)
            if name not in turn.trained:
                p.grad = None
        self.model.train()
        for module in self.quiet(turn):
            module.training = False  # not its children

    def quiet(self, turn: Turn) -> list[nn.Module]:
        """The modules whose statistics stand still."""
        return [module for module, own in self._own if turn.live.isdisjoint(own)]

    def release(self) -> None:
        """As the caller had it, in training mode."""
        for name, p in self.model.named_parameters():
            p.requires_grad_(self.came[name])
        self.model.train()


def reset_parts(model: nn.Module, parts: Parts, selectors: str | Sequence[str], seed: int) -> None:
    """Draw parts of a model anew, by the seed alone; the global random state stays as it is.

    Raises:
        UserError: a parameter of a module that has no `reset_parameters`.
    """
    wanted, done = parts.pick(selectors), set[str]()
    names = {id(p): name for name, p in model.named_parameters()}
    devices = [p.device for p in list(model.parameters())[:1] if p.device.type == "cuda"]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for module in model.modules():
            own = {names[id(p)] for p in module.parameters(recurse=False)}
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if own and own <= wanted and callable(reset):
                reset()
                done |= own
    left = [name for name in parts.parameters if name in wanted - done]
    if left:
        raise UserError(f"'{left[0]}' cannot be re-initialised: its module has no method reset_parameters()")
