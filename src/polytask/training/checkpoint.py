"""A training on disk: everything that is needed to go on bit for bit, in one file without a pickle."""

from __future__ import annotations

import hashlib
import json
import math
import re
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from polytask import files
from polytask.errors import UserError

FILE, FORMAT = "training.safetensors", 1


class Checkpoint:
    """The folder of a training, with at most one file: tensors, and beside them JSON in the file's header.

    Args:
        folder: made if it is not there.
        question: what the training is, in words; a file that answers another one is refused.
    """

    def __init__(self, folder: Path | str, question: Mapping[str, str]) -> None:
        self.path = files.make_folder(Path(folder)) / FILE
        self.question = dict(question)

    def load(self) -> Any:
        """The state that was saved last, or None.

        Raises:
            UserError: the checkpoint of another training, or no checkpoint of ours.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as stored:
                about = json.loads((stored.metadata() or {})["polytask"])
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a mapping
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"{self.path} is not a checkpoint of polytask; give another folder") from error
        if about["format"] != FORMAT:
            raise UserError(f"{self.path} was written by another version of polytask (format {about['format']})")
        for what, asked in self.question.items():
            if about["question"].get(what) != asked:
                raise UserError(f"{self.path} belongs to another training: {what} differs; give another folder")
        return unpack(about["state"], tensors)

    def save(self, state: Any) -> None:
        """Replace the file, in one go."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        about = {"format": FORMAT, "question": self.question, "state": pack(state, tensors)}
        files.write_bytes(self.path, save(tensors, metadata={"polytask": json.dumps(about, allow_nan=False)}))


def pack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a tree of mappings, lists, tuples, numbers and texts; its tensors go into `tensors`.

    >>> pack({"a": (1, float("inf"))}, {})
    {'dict': [['a', {'tuple': [1, {'float': 'inf'}]}]]}
    """
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"dict": [[pack(key, tensors), pack(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, tuple | list):
        listed = [pack(value, tensors) for value in tree]
        return {"tuple": listed} if isinstance(tree, tuple) else listed
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": str(tree)}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise UserError(f"a checkpoint holds tensors, numbers and texts; {type(tree).__name__} is none of them: {tree!r}")


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `pack` described."""
    if isinstance(packed, list):
        return [unpack(value, tensors) for value in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {unpack(key, tensors): unpack(value, tensors) for key, value in content}
    return tuple(unpack(value, tensors) for value in content) if kind == "tuple" else float(content)


def random_state() -> dict[str, Any]:
    """The state of torch's generators."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on where `random_state` was."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


class Interrupt:
    """Within it the first Ctrl-C only asks, so that a step can end; the second one stops at once.

    Outside of the main thread nothing is changed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._heard = threading.current_thread() is threading.main_thread()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> Interrupt:
        if self._heard:
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        if self._heard:
            signal.signal(signal.SIGINT, self._before)


def question(parts: Mapping[str, Any]) -> dict[str, str]:
    """What a training is, in words that another process finds again."""
    return {what: _words(value) for what, value in parts.items()}


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_words(one)}" for key, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(map(_words, value))
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))  # an address says nothing
