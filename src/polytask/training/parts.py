"""The parts of a model by name: what stages freeze, train, re-initialise and give learning rates of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from polytask.errors import UserError, nearest
from polytask.model import MultiTaskModel

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


class Parts:
    """Names of parameters and buffers of a model, by what they are.

    A selector is one of

    - "trunk", "heads", "embeddings" (embedding tables), "shared" (serves several tasks);
    - "task:NAME", all that serves only this task; "head:NAME", its head;
    - "depth:K", 0 nearest to the inputs (embeddings, stem), the heads last; "top:N", the last N depths;
    - the name of a module or parameter ("trunk.encoder.2"), or a pattern over the names ("trunk.*.bias").

    Buffers (BatchNorm's statistics) belong to the parts of their module.

    >>> from polytask import MLP, HardSharing
    >>> model = MultiTaskModel(HardSharing(MLP(3, [8, 8])), {"a": nn.Linear(8, 1), "b": nn.Linear(8, 1)})
    >>> sorted(Parts(model).pick(["depth:0", "head:b"]))
    ['heads.1.bias', 'heads.1.weight', 'trunk.encoder.0.bias', 'trunk.encoder.0.weight']
    """

    def __init__(self, model: MultiTaskModel) -> None:
        self.parameters = tuple(name for name, _ in model.named_parameters())
        self.names = (*self.parameters, *(name for name, _ in model.named_buffers()))
        self._aliases = _aliases(model)  # a tied parameter has several names, of which the first counts
        self.serves = _serves(model, self.names)
        self.depth = _depths(model, self.names)
        self.depths = 1 + max(self.depth.values(), default=0)
        self.tasks = model.names
        self._roles = self._find_roles(model)

    def _find_roles(self, model: MultiTaskModel) -> dict[str, frozenset[str]]:
        tables = {name for name, module in model.named_modules() if isinstance(module, EMBEDDINGS)}
        found = {
            "trunk": self._below(["trunk"]),
            "heads": self._below(["heads"]),
            "embeddings": self._below(tables),
            "shared": frozenset(name for name in self.names if len(self.serves[name]) > 1),
        }
        for place, task in enumerate(model.names):
            found[f"task:{task}"] = frozenset(name for name in self.names if self.serves[name] == (task,))
            found[f"head:{task}"] = self._below([f"heads.{place}"])
        for depth in range(self.depths):
            found[f"depth:{depth}"] = frozenset(name for name in self.names if self.depth[name] == depth)
            found[f"top:{self.depths - depth}"] = frozenset(name for name in self.names if self.depth[name] >= depth)
        return found

    def _below(self, modules: Iterable[str]) -> frozenset[str]:
        """All that lies in these modules, under whatever name."""
        starts = tuple(f"{module}." for module in modules)
        return frozenset(name for alias, name in self._aliases.items() if alias.startswith(starts))

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, selectors: str | Sequence[str]) -> frozenset[str]:
        """Names of the parameters and buffers that at least one selector means.

        Raises:
            UserError: a selector that is no part and matches no name.
        """
        asked = [selectors] if isinstance(selectors, str) else selectors
        return frozenset().union(*(self._one(selector) for selector in asked))

    def _one(self, selector: str) -> frozenset[str]:
        if selector in self._roles:
            return self._roles[selector]
        found = self._below([selector]) | {
            name for alias, name in self._aliases.items() if alias == selector or fnmatchcase(alias, selector)
        }
        if not found:
            hint = nearest(selector, self._roles)
            raise UserError(
                f"the model has no part '{selector}'{f'{hint} Its' if 'mean' in hint else '; its'} parts are "
                f"{', '.join(self._roles)}, and names and patterns of parameters such as '{self.names[0]}'"
            )
        return found

    def known(self) -> tuple[str, ...]:
        """The selectors that are no patterns."""
        return tuple(self._roles)

    def rows(self, factors: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, ...]]:
        """The coarsest division of the parameters into named parts, so that each mapping is the same within a part."""

        def alike(names: Sequence[str]) -> bool:
            return all(len({factor.get(name, 0.0) for name in names}) <= 1 for factor in factors)

        def divided(label: str, names: Sequence[str], ways: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
            if not ways or alike(names):
                return {label: tuple(names)}
            groups: dict[str, list[str]] = {}
            for name in names:
                groups.setdefault(f"{label} {ways[0][name]}".removeprefix("trunk "), []).append(name)
            return {k: v for key, group in groups.items() for k, v in divided(key, group, ways[1:]).items()}

        owner = {n: self.serves[n][0] if len(self.serves[n]) == 1 else "shared" for n in self.parameters}
        depth = {name: f"depth:{self.depth[name]}" for name in self.parameters}
        trunk = [name for name in self.parameters if name.startswith("trunk.")]
        heads = [name for name in self.parameters if not name.startswith("trunk.")]
        found = divided("trunk", trunk, [depth, owner]) if trunk else {}
        if heads and alike(heads):
            found["heads"] = tuple(heads)
        for task in self.tasks if "heads" not in found else ():
            own = tuple(name for name in heads if name in self._roles[f"head:{task}"])
            if own:
                found[f"head:{task}"] = own
        return found


def _aliases(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer, and the first name of the same tensor."""
    first = {id(p): name for name, p in [*model.named_parameters(), *model.named_buffers()]}
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first[id(p)] for name, p in every}


def _serves(model: MultiTaskModel, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """As `MultiTaskModel.serves`; a buffer serves whom the parameters of the nearest module around it serve."""
    served = model.serves()
    for name in names:
        around = name
        while name not in served:
            around = around.rpartition(".")[0]
            tasks = {task for p, by in served.items() if p.startswith(f"{around}." if around else "") for task in by}
            if tasks or not around:
                served[name] = tuple(task for task in model.names if task in tasks)
    return served


def _depths(model: MultiTaskModel, names: Sequence[str]) -> dict[str, int]:
    """How deep parameters and buffers lie: depths of the trunk that hold parameters, then the heads."""
    levels = model.trunk.depths()
    found: dict[int, int] = {}
    for place, level in enumerate(levels):
        for part in level:
            for tensor in [part] if isinstance(part, nn.Parameter) else [*part.parameters(), *part.buffers()]:
                found.setdefault(id(tensor), place)
    own = {id(p) for p in model.trunk.parameters()}
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    raw = {n: found.get(id(tensors[n]), len(levels) - 1) if n.startswith("trunk.") else len(levels) for n in names}
    used = sorted({raw[n] for n in names if id(tensors[n]) in own or raw[n] == len(levels)})
    return {name: sum(1 for place in used if place < raw[name]) for name in names}
