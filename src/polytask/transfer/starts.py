"""Where a fine-tuning starts: a trained model, a module with a safetensors file, a Hugging Face folder on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polytask.encoders import Encoder
from polytask.errors import UserError, missing_extra
from polytask.heads import make_head
from polytask.hugging_face import HuggingFaceEncoder
from polytask.model import MultiTaskModel
from polytask.task import Task
from polytask.training import Parts
from polytask.trunks import HardSharing, Trunk

Make = Callable[[Mapping[str, Task]], MultiTaskModel]


@dataclass(frozen=True)
class Start:
    """A trained model that other tasks can begin from.

    Args:
        name: for tables and reports.
        model: with its trained trunk and the heads of its own tasks (there may be none).
        tasks: its own.
        make: an untrained model of the same build for other tasks; needed where the trunk has parts of its own for each
            task. By default new heads stand on a copy of the trunk.

    >>> from polytask import MLP
    >>> start = Start.of_encoder("pretrained", MLP(3, [8]))
    >>> start.begin({"new": Task.binary("new")}, seed=1).names
    ('new',)
    """

    name: str
    model: MultiTaskModel
    tasks: Mapping[str, Task] = field(default_factory=dict)
    make: Make | None = None

    @classmethod
    def of_encoder(cls, name: str, encoder: Encoder, out_features: int | None = None) -> Start:
        """A trained encoder without heads."""
        return cls(name, MultiTaskModel(HardSharing(encoder, out_features), {}))

    def begin(self, tasks: Mapping[str, Task], *, seed: int = 0) -> MultiTaskModel:
        """A model for these tasks with the weights of this one, which stays as it is.

        What serves all tasks in both models is carried over. A task that this model knows (same name, kind, labels and
        units) goes on with its own head and parts; what is new is drawn by the seed. `carried` says what came over.

        Raises:
            UserError: nothing of the trunk can be carried over; a trunk with parts for each task, and no `make`.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.make(tasks) if self.make is not None else self._on_the_trunk(tasks)
        found = carried(self.model, model, self.going_on(tasks))
        if not any(name.startswith("trunk.") for name in found):
            raise UserError(
                f"nothing of '{self.name}' can be carried over to {', '.join(tasks)}: its trunk "
                f"({type(self.model.trunk).__name__}) shares nothing between tasks"
            )
        old, new = self.model.state_dict(), model.state_dict()
        model.load_state_dict({**new, **{name: old[origin] for name, origin in found.items()}})
        return model

    def going_on(self, tasks: Mapping[str, Task]) -> tuple[str, ...]:
        """Those of the tasks that this model was trained for."""
        return tuple(name for name, task in tasks.items() if name in self.tasks and alike(task, self.tasks[name]))

    def _on_the_trunk(self, tasks: Mapping[str, Task]) -> MultiTaskModel:
        trunk = self.model.trunk
        if trunk.parts():
            raise UserError(
                f"the trunk of '{self.name}' ({type(trunk).__name__}) has parts of its own for each task: give make=, "
                "a function from tasks to an untrained model of the same build"
            )
        heads = {name: make_head(task, trunk.out_features) for name, task in tasks.items()}
        return MultiTaskModel(copy.deepcopy(trunk), heads)


def alike(one: Task, other: Task) -> bool:
    """Whether a head of one task can go on for the other: same kind, width, labels and units."""
    return (one.kind, one.outputs, one.labels, dict(one.options)) == (
        other.kind, other.outputs, other.labels, dict(other.options)
    )  # fmt: skip


def carried(old: MultiTaskModel, new: MultiTaskModel, going_on: Sequence[str] = ()) -> dict[str, str]:
    """Per name in the new model's state the name in the old one's that it can be taken from.

    Those are: tensors of the trunk that serve all tasks in both models, with the same name and shape; heads of tasks
    that go on, and what serves only them in the trunk, in its order.
    """
    shapes, origins = _shapes(new), _shapes(old)
    found = {name: name for name in _everyone(old) & _everyone(new) if origins[name] == shapes[name]}
    for task in going_on:
        pairs = list(zip(_own(new, task), _own(old, task), strict=False))
        if len(_own(new, task)) == len(_own(old, task)) and all(shapes[a] == origins[b] for a, b in pairs):
            found |= {a: b for a, b in pairs if a not in found}
    return {name: found[name] for name in shapes if name in found}


def _shapes(model: MultiTaskModel) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in model.state_dict().items() if isinstance(t, Tensor)}


def _everyone(model: MultiTaskModel) -> set[str]:
    """What of the trunk serves every task, buffers included; all of it where there are no tasks."""
    parts = Parts(model)
    every = {name for name in parts.names if name.startswith("trunk.") and parts.serves[name] == model.names}
    return every & set(model.state_dict())


def _own(model: MultiTaskModel, task: str) -> list[str]:
    """The head of a task, then what serves only it in the trunk."""
    parts, state = Parts(model), model.state_dict()
    head = parts.pick(f"head:{task}")
    several = len(model.names) > 1
    own = {name for name in parts.pick(f"task:{task}") if name.startswith("trunk.")} if several else set()
    return [name for name in state if name in head] + [name for name in state if name in own]


@dataclass(frozen=True)
class Loaded:
    """What `load_weights` did: names of the module that were loaded, that stayed, and of the file that were left."""

    loaded: tuple[str, ...]
    stayed: tuple[str, ...]
    left: tuple[str, ...]


def load_weights(
    module: nn.Module,
    file: Path | str,
    *,
    renames: Mapping[str, str] | None = None,
    may_stay: Sequence[str] = (),
    may_be_left: Sequence[str] = (),
) -> Loaded:
    """Load a safetensors file into a module, all of it or nothing.

    Every tensor of the module must be in the file with its shape, and every tensor of the file must have a place, but
    for the patterns given. Nothing is unpickled; a file of another kind is refused.

    Args:
        renames: start of a name in the file -> what stands there in the module ("" for nothing); the longest fits.
        may_stay: patterns of names of the module that the file may lack ("heads.*").
        may_be_left: patterns of names of the file (after `renames`) that the module may lack ("cls.*").

    Raises:
        UserError: not such a file; what is missing, of another shape, or left over, in one sentence.
    """
    tensors = _renamed(_read(Path(file)), renames or {}, file)
    state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    stayed = [name for name in state if name not in tensors]
    left = [name for name in tensors if name not in state]
    missing = [name for name in stayed if not _fits(name, may_stay)]
    spare = [name for name in left if not _fits(name, may_be_left)]
    wrong = [
        f"'{name}' {tuple(tensors[name].shape)} in the file and {tuple(value.shape)} in the module"
        for name, value in state.items() if name in tensors and tensors[name].shape != value.shape
    ]  # fmt: skip
    problems = [
        *([f"{len(missing)} of {len(state)} tensors are missing ({_listed(missing)})"] if missing else []),
        *([f"{len(wrong)} of another shape ({wrong[0]})"] if wrong else []),
        *([f"{len(spare)} of the file have no place ({_listed(spare)})"] if spare else []),
    ]
    if problems:
        raise UserError(
            f"{file} does not fit the module, nothing was loaded: {'; '.join(problems)}; see renames=, may_stay= and "
            "may_be_left="
        )
    module.load_state_dict({**state, **{name: tensors[name] for name in state if name in tensors}}, strict=False)
    return Loaded(tuple(name for name in state if name in tensors), tuple(stayed), tuple(left))


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"{file} does not exist")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is no .safetensors file; other formats may hold code and are not opened")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read as safetensors: {error}") from error


def _renamed(tensors: Mapping[str, Tensor], renames: Mapping[str, str], file: Path | str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        start = max((one for one in renames if name.startswith(one)), key=len, default=None)
        called = name if start is None else renames[start] + name.removeprefix(start)
        if called in found:
            raise UserError(f"{file}: two tensors would be called '{called}' by renames=")
        found[called] = value
    unused = [start for start in renames if not any(name.startswith(start) for name in tensors)]
    if unused:
        raise UserError(f"{file}: no tensor's name starts with '{unused[0]}'; they are {_listed(list(tensors))}")
    return found


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (", ..." if len(names) > 3 else "")


def hugging_face_encoder(folder: Path | str, pool: str = "mean") -> HuggingFaceEncoder:
    """An encoder from a folder that `save_pretrained` wrote, extra [text]; no network, no pickle, no code of others.

    The folder's own heads (of masked words, of an old task) are left out. A pooler that the folder lacks stays
    untrained: features are the last hidden states and do not pass it.

    Args:
        pool: see `HuggingFaceEncoder`.

    Raises:
        UserError: no such folder, no safetensors in it, a model that transformers does not know, missing weights.
    """
    place = Path(folder)
    if not (place / "config.json").is_file():
        raise UserError(f"{place} is no folder of a Hugging Face model: it has no config.json")
    if not any(place.glob("*.safetensors")):
        raise UserError(f"{place} has no .safetensors file; other formats may hold code and are not opened")
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise missing_extra("transformers", "text", "a Hugging Face folder") from error
    try:
        with torch.random.fork_rng():  # what the folder lacks is drawn, and dropped below
            loaded: Any = AutoModel.from_pretrained(
                str(place), local_files_only=True, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{place} cannot be loaded by transformers: {str(error).strip().splitlines()[0]}") from error
    model, told = loaded
    missing = [name for name in told["missing_keys"] if not name.startswith("pooler.")]
    if missing:
        raise UserError(f"{place} lacks weights of its encoder: {_listed(sorted(missing))}")
    if told.get("mismatched_keys"):
        raise UserError(f"{place} holds weights of another shape: {_listed([str(k) for k in told['mismatched_keys']])}")
    return HuggingFaceEncoder(model.train(), pool)


def trunk_share(model: MultiTaskModel, found: Mapping[str, str]) -> float:
    """The share of the trunk's numbers that came from the start."""
    trunk: Trunk = model.trunk
    sizes = {f"trunk.{name}": p.numel() for name, p in trunk.named_parameters()}
    return sum(size for name, size in sizes.items() if name in found) / max(sum(sizes.values()), 1)
