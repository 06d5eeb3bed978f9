"""The promises of a trunk as checks: `check_trunk` for users' own trunks and for every registered one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polytask.balance import Equal
from polytask.batch import Batch, map_tensors
from polytask.gradients import task_gradients
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training import train_step
from polytask.trunks import Trunk

Make = Callable[[], Trunk]


def check_trunk(make: Make, inputs: Any, tasks: Sequence[str], *, exceptions: Mapping[str, str] | None = None) -> None:
    """Run every check of `TRUNK_CHECKS` on a trunk.

    Args:
        make: builds the trunk, a new one at every call.
        inputs: a batch of at least four rows, as the trunk takes it (tensors, or mappings and lists of them).
        tasks: at least two names.
        exceptions: name of a check -> the reason why it does not hold here.

    Raises:
        AssertionError: a promise is broken; the message names the check.

    >>> from polytask import MLP, HardSharing
    >>> check_trunk(lambda: HardSharing(MLP(3, [8])), torch.randn(6, 3), ["a", "b"])
    """
    excused = exceptions or {}
    for name in excused:
        assert name in TRUNK_CHECKS, f"there is no check '{name}'"
        assert excused[name], f"an exception needs its reason: '{name}'"
    for name, check in TRUNK_CHECKS.items():
        if name not in excused:
            torch.manual_seed(0)
            try:
                check(make, inputs, tuple(tasks))
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error


def tensors(tree: Any) -> list[Tensor]:
    """The tensors in a tree of mappings, lists and tuples, in order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, tree)  # type: ignore[func-returns-value]
    return found


def rows_of(inputs: Any) -> int:
    """Number of rows of a batch."""
    return len(tensors(inputs)[0])


def shaken(trunk: Trunk) -> Trunk:
    """The trunk a little off its initial values, because at special ones (zeros, identities) gradients vanish."""
    with torch.no_grad():
        for p in trunk.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return trunk


def number_of(features: Any) -> Tensor:
    """A random linear function of the features, the same one at every call."""
    generator = torch.Generator().manual_seed(7)
    return sum(
        (
            (t.double() * torch.randn(t.shape, generator=generator, dtype=torch.float64)).sum()
            for t in tensors(features)
        ),
        torch.zeros((), dtype=torch.float64),
    )


def same(first: Any, second: Any, **tolerance: Any) -> None:
    """All tensors of two trees agree."""
    torch.testing.assert_close(tensors(first), tensors(second), **tolerance)


def features_of_the_asked_tasks(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """In their order, as many rows as the inputs, `out_features` wide."""
    trunk = make().eval()
    for asked in (tasks, tasks[:1], tasks[::-1]):
        features = trunk(inputs, asked)
        assert tuple(features) == asked, f"asked for {asked}, got {tuple(features)}"
        for tensor in tensors(features):
            assert len(tensor) == rows_of(inputs), f"{len(tensor)} rows from {rows_of(inputs)}"
            assert trunk.out_features in tensor.shape[1:], f"{tuple(tensor.shape)} is not {trunk.out_features} wide"


def other_tasks_change_nothing(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """The features of a task are the same, whatever else is asked."""
    trunk = shaken(make()).eval()
    whole = trunk(inputs, tasks)
    for task in tasks:
        same(trunk(inputs, (task,))[task], whole[task])


def only_what_is_needed(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """A module that serves only other tasks is not run."""
    trunk = make().eval()
    served, ran = trunk.serves(tasks), set[str]()
    for name, module in trunk.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(lambda *_, name=name: ran.add(name))
    for task in tasks:
        ran.clear()
        trunk(inputs, (task,))
        idle = [n for n in ran for p, by in served.items() if p.startswith(f"{n}.") and by and task not in by]
        assert not idle, f"'{task}' runs {sorted(set(idle))[:3]}"


def rows_do_not_see_each_other(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """In evaluation mode some rows alone give the same features."""
    trunk = shaken(make()).eval()
    same(trunk(map_tensors(lambda t: t[1:3], inputs), tasks), map_tensors(lambda t: t[1:3], trunk(inputs, tasks)))


def batch_of_one(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """One row gives one row."""
    for tensor in tensors(make().eval()(map_tensors(lambda t: t[:1], inputs), tasks)):
        assert len(tensor) == 1
        assert bool(tensor.isfinite().all())


def gradients_reach_what_serves_says(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """A task's loss reaches the parameters that serve it, and no other."""
    trunk = shaken(make())
    served = trunk.serves(tasks)
    assert set(served) == {name for name, _ in trunk.named_parameters()}, "serves() names every parameter"
    for task in tasks:
        trunk.zero_grad(set_to_none=True)
        number_of(trunk(inputs, (task,))).backward()
        for name, p in trunk.named_parameters():
            touched = p.grad is not None and bool(p.grad.ne(0).any())
            if p.requires_grad:
                assert touched == (task in served[name]), (
                    f"'{task}' and {name}: touched {touched}, served {served[name]}"
                )


def balancers_see_what_serves_says(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """With all tasks in one step, what is balanced among which tasks is what serves them.

    A product that mixes own parameters of several tasks gives the right gradients, and yet every task seems to share
    them: their norms would count in the Gramian, and they would be weighted.
    """
    trunk = shaken(make())
    features, names = trunk(inputs, tasks), {id(p): name for name, p in trunk.named_parameters()}
    found = task_gradients([number_of(features[task]) for task in tasks])
    seen = {names[id(leaf)]: [tasks[row] for row in block.rows] for block in found.blocks for leaf in block.leaves}
    seen |= {names[id(leaf)]: [tasks[row]] for leaf, row in found.owners.items()}
    served = trunk.serves(tasks)
    for name, by in seen.items():
        assert set(by) == set(served[name]), f"{name} serves {list(served[name])}, and a balancer sees {by}"


def depths_rise(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """What reaches the inputs of a module lies no deeper in the tree of `depths()` than the module."""
    trunk = shaken(make()).eval()
    depth: dict[int, int] = {}
    for place, level in enumerate(trunk.depths()):
        for part in level:
            for p in [part] if isinstance(part, nn.Parameter) else part.parameters():
                depth.setdefault(id(p), place)
    last, heard = len(trunk.depths()) - 1, dict[str, list[Tensor]]()
    own = {name: list(module.parameters(recurse=False)) for name, module in trunk.named_modules()}
    for name, module in trunk.named_modules():
        if own[name] and module is not trunk:
            module.register_forward_hook(
                lambda _, given, __, name=name: heard.setdefault(name, []).extend(tensors(given))
            )
    with torch.no_grad():  # as below: transformers take another path, which rounds differently
        trunk(inputs, tasks)
    before = dict(heard)
    for name, p in trunk.named_parameters():
        heard.clear()
        with torch.no_grad():
            kept = p.clone()
            p.add_(0.3 * torch.randn_like(p))
            trunk(inputs, tasks)
            p.copy_(kept)
        for module in heard.keys() & before.keys():  # which ones run may be learnt
            pairs = list(zip(heard[module], before[module], strict=True))
            if pairs and not any(torch.equal(x, y) for x, y in pairs):  # without a tensor it sees nothing
                low, high = depth.get(id(p), last), max(depth.get(id(q), last) for q in own[module])
                assert low <= high, f"{module} sees what {name} gives, and lies at {high} below {low}"


def every_parameter_is_trained(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """The losses of all tasks and the penalty together reach every parameter that is not frozen."""
    trunk = shaken(make())
    total = number_of(trunk(inputs, tasks))
    penalty = trunk.penalty()
    if penalty is not None:
        assert penalty.shape == (), f"a penalty is one number, got shape {tuple(penalty.shape)}"
        total = total + penalty
    total.backward()
    still = [n for n, p in trunk.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still, f"nobody trains {still[:3]}"


def state_dict_round_trip(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """Another trunk with the saved state gives the same features."""
    first, second = shaken(make()).eval(), shaken(make()).eval()
    second.load_state_dict(first.state_dict())
    same(first(inputs, tasks), second(inputs, tasks), rtol=0, atol=0)


def the_seed_decides(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """The same seed, the same features in training; in evaluation no random number is drawn."""
    outcomes = []
    for _ in range(2):
        torch.manual_seed(3)
        outcomes.append(make()(inputs, tasks))
    same(*outcomes, rtol=0, atol=0)
    trunk = make().eval()
    same(trunk(inputs, tasks), trunk(inputs, tasks), rtol=0, atol=0)


def float64(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """In double precision everything is double."""
    trunk = make().double()
    wide = map_tensors(lambda t: t.double() if t.is_floating_point() else t, inputs)
    features = trunk(wide, tasks)
    number_of(features).backward()
    for tensor in tensors(features):
        assert tensor.dtype == torch.float64, f"features are {tensor.dtype}"
    penalty = trunk.penalty()
    assert penalty is None or penalty.dtype == torch.float64, "the penalty is not double"


def autocast(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """Under bfloat16 autocast features are finite and near those in full precision; gradients are float32."""
    trunk = make().eval()
    plain = trunk(inputs, tasks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = trunk(inputs, tasks)
        penalty = trunk.penalty()
    total = number_of(features) if penalty is None else number_of(features) + penalty
    total.backward()
    same(map_tensors(Tensor.float, features), map_tensors(Tensor.float, plain), rtol=0.1, atol=0.1)
    for name, p in trunk.named_parameters():
        assert p.grad is None or bool(p.grad.isfinite().all()), f"the gradient of {name} is not finite"


def partial_labels(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """A step on a batch with labels of one task only leaves alone what serves the others only."""
    trunk = make().eval()
    model = MultiTaskModel(trunk, {task: _Head(trunk, inputs, task) for task in tasks}).train()
    target = torch.randn(rows_of(inputs))
    target[0] = float("nan")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    kinds = {task: Task.regression(task) for task in tasks}
    batch = Batch(inputs, {tasks[0]: target})
    step = train_step(model, kinds, [batch], Equal(), torch.optim.SGD(model.parameters(), lr=0.1))
    assert step is not None
    assert step.skipped is None, f"skipped: {step.skipped}"
    if trunk.penalty() is None:
        served = model.serves()
        moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n]) and tasks[0] not in served[n]]
        assert not moved, f"labels of '{tasks[0]}' moved {moved[:3]}"


class _Head(nn.Module):
    """One number from features of any shape."""

    def __init__(self, trunk: Trunk, inputs: Any, task: str) -> None:
        super().__init__()
        with torch.no_grad():
            width = sum(t[0].numel() for t in tensors(trunk(inputs, (task,))))
        self.last = nn.Linear(width, 1)

    def forward(self, features: Any) -> Tensor:
        return self.last(torch.cat([t.flatten(1) for t in tensors(features)], dim=1))


class _Asked(nn.Module):
    """A trunk with its tasks fixed, as compilers want it."""

    def __init__(self, trunk: Trunk, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk, self.tasks = trunk, tasks

    def forward(self, inputs: Any) -> dict[str, Any]:
        return self.trunk(inputs, self.tasks)


def compiles(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """`torch.compile` in one graph gives the same features and gradients."""
    trunk = make()
    torch.compiler.reset()
    results = []
    for run in (_Asked(trunk, tasks), torch.compile(_Asked(trunk, tasks), backend="aot_eager", fullgraph=True)):
        trunk.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        features = run(inputs)
        number_of(features).backward()
        results.append([features, [p.grad for p in trunk.parameters() if p.grad is not None]])
    same(results[0], results[1], rtol=1e-4, atol=1e-5)


def exports(make: Make, inputs: Any, tasks: tuple[str, ...]) -> None:
    """`torch.export` of the trunk in evaluation mode gives the same features."""
    asked = _Asked(make(), tasks).eval()
    with torch.no_grad():
        program = torch.export.export(asked, (inputs,))
        same(program.module()(inputs), asked(inputs), rtol=1e-4, atol=1e-5)


TRUNK_CHECKS: dict[str, Callable[[Make, Any, tuple[str, ...]], None]] = {
    check.__name__: check
    for check in (
        features_of_the_asked_tasks,
        other_tasks_change_nothing,
        only_what_is_needed,
        rows_do_not_see_each_other,
        batch_of_one,
        gradients_reach_what_serves_says,
        balancers_see_what_serves_says,
        depths_rise,
        every_parameter_is_trained,
        state_dict_round_trip,
        the_seed_decides,
        float64,
        autocast,
        partial_labels,
        compiles,
        exports,
    )
}
