"""Going through data again and again: exact epochs and exact resumption of what has no rows by number."""

from __future__ import annotations

import copy
import hashlib
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polytask.batch import Batch, map_tensors
from polytask.errors import UserError
from polytask.sampling.base import Source, Stream
from polytask.sampling.items import LabelCounts, seeded
from polytask.sampling.order import generator_of

Gather = Callable[[Iterator[Any]], Batch | None]


class IteratedStream(Stream):
    """Goes through data again and again; what each batch draws at random is a function of (seed, epoch, batch).

    It resumes by the state of the data (`state_dict`, `load_state_dict`), if that is exact; else by going through the
    epoch again up to the same batch, which must then be the same.
    """

    def __init__(self, data: Iterable[Any], gather: Gather, *, rows: int, batches: int, seed: int, keeper: Any) -> None:
        self._data, self._gather, self._keeper = data, gather, keeper
        self.rows, self._batches, self._seed = rows, batches, seed
        self.epoch = self.cursor = 0
        self._iterator: Iterator[Any] | None = None
        self._last: Batch | None = None
        self._loaded: dict[str, Any] | None = None  # data knows its place only when it is read again

    def __len__(self) -> int:
        return self._batches

    def next(self) -> Batch:
        if self.cursor >= len(self):
            self.close()
            self.epoch, self.cursor = self.epoch + 1, 0
        batch = self._pull()
        if batch is None:
            raise UserError(
                f"the data ended after {self.cursor} batches of the {len(self)} that an epoch should have: it must "
                f"give the same rows in every epoch, and rows= or batches= must be right"
            )
        self.cursor += 1
        if self.cursor == len(self) and self._pull() is not None:
            raise UserError(
                f"the data goes on after the {len(self)} batches that an epoch should have: rows= or batches= must be "
                f"right, and with workers each must give rows of its own (torch.utils.data.get_worker_info)"
            )
        self._last, self._loaded = batch, None
        return batch

    def _pull(self) -> Batch | None:
        with seeded(self._seed, self.epoch, self.cursor):
            if self._iterator is None:
                begin_epoch(self._data, self._seed, self.epoch)
                self._iterator = iter(self._data)
            return self._gather(self._iterator)

    def state_dict(self) -> dict[str, Any]:
        if self._loaded is not None:
            return dict(self._loaded)
        inside = 0 < self.cursor < len(self)
        state = copy.deepcopy(self._keeper.state_dict()) if inside and self._keeper is not None else None
        last = fingerprint(self._last) if inside and state is None and self._last is not None else None
        return {"epoch": self.epoch, "cursor": self.cursor, "data": state, "last": last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.close()
        self.epoch, self.cursor, self._loaded = state["epoch"], state["cursor"], dict(state)
        if state["data"] is not None:
            begin_epoch(self._data, self._seed, self.epoch)
            self._keeper.load_state_dict(copy.deepcopy(state["data"]))
            self._iterator = iter(self._data)
        elif 0 < self.cursor < len(self):
            self._go_again(self.cursor, state["last"])

    def _go_again(self, batches: int, last: str) -> None:
        for self.cursor in range(batches):
            self._last = self._pull()
        self.cursor = batches
        if self._last is None or fingerprint(self._last) != last:
            raise UserError(
                "the data does not give the same batches a second time, so that training cannot go on in the middle "
                "of an epoch: shuffle with torch's, NumPy's or Python's global random numbers or by set_epoch, or give "
                "it a state_dict"
            )

    def close(self) -> None:
        self._iterator = None


def begin_epoch(data: Any, seed: int, epoch: int) -> None:
    """Tell the data, and what a DataLoader is made of, which epoch begins; seed the generators that they hold."""
    parts = [data, *(getattr(data, name, None) for name in ("dataset", "sampler", "batch_sampler"))]
    parts.append(getattr(parts[-1], "sampler", None))
    for part in {id(part): part for part in parts if part is not None}.values():
        if callable(getattr(part, "set_epoch", None)):
            part.set_epoch(epoch)
        if isinstance(getattr(part, "generator", None), torch.Generator):
            part.generator.manual_seed(generator_of(seed, epoch).initial_seed())


def _loses_rows(data: Any) -> bool:
    """Whether there is a shuffle buffer of Hugging Face in it: its rows are not in the state and would be lost."""
    part = getattr(data, "_ex_iterable", None)
    while part is not None and "BufferShuffled" not in type(part).__name__:
        part = getattr(part, "ex_iterable", None)
    return part is not None


def fingerprint(batch: Batch) -> str:
    """A hash of all numbers of a batch."""
    digest = hashlib.sha256()

    def add(tensor: Tensor) -> Tensor:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return tensor

    map_tensors(add, [batch.inputs, dict(batch.targets)])
    return digest.hexdigest()


class PassSource(Source):
    """What iterable sources share: labels are counted by going through the data once, unless sizes are given."""

    def __init__(self, data: Any, tasks: Sequence[str], sizes: Mapping[str, int] | None, rows: int | None) -> None:
        if isinstance(tasks, str) or not tasks:
            raise UserError("tasks must be a list of at least one name")
        if not hasattr(data, "__iter__"):
            raise UserError(f"a {type(data).__name__} cannot be gone through")
        if iter_is_itself(data):
            raise UserError(
                f"a {type(data).__name__} can be gone through only once: give a data set whose __iter__ begins anew"
            )
        lacking = [name for name in tasks if sizes is not None and name not in sizes]
        if lacking:
            raise UserError(f"sizes= lacks the task '{lacking[0]}'")
        self.data, self.tasks, self._sizes, self._rows = data, tuple(tasks), sizes, rows
        self._counts: LabelCounts | None = None
        self._stream: weakref.ref[IteratedStream] | None = None

    def sizes(self) -> dict[str, int]:
        if self._sizes is not None:
            return {name: int(self._sizes[name]) for name in self.tasks}
        return self.counts().sizes()

    @abstractmethod
    def counts(self) -> LabelCounts:
        """Labels of every row, by one pass through the data."""

    def keeper(self, data: Any) -> Any:
        """The data, if it keeps its place itself; then only one stream may move it."""
        keeps = all(callable(getattr(data, name, None)) for name in ("state_dict", "load_state_dict"))
        if not keeps or _loses_rows(data):
            return None
        if self._stream is not None and self._stream() is not None:
            raise UserError(
                f"this {type(data).__name__} keeps its place itself, so that one stream at a time can read it: give "
                f"each task a source with a data set of its own"
            )
        return data

    def only(self, stream: IteratedStream) -> IteratedStream:
        self._stream = weakref.ref(stream)
        return stream


def iter_is_itself(data: Any) -> bool:
    """Whether this is a generator or another iterator."""
    return isinstance(data, Iterator)
