"""A trained table model on disk: safetensors, JSON and a manifest with checksums; predictions for new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from polytask import files
from polytask.errors import UserError
from polytask.model import MultiTaskModel
from polytask.sampling import TensorSource
from polytask.table.edits import grown, network, shrunk
from polytask.table.new_task import read_new_task
from polytask.table.preprocess import Preprocessor
from polytask.table.recipe import combine
from polytask.task import Task
from polytask.training import predict
from polytask.transfer.few_shot import few_shot
from polytask.transfer.growing import Grown
from polytask.transfer.shrinking import shrink

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

KIND = "polytask table model"
FILES = ("model.safetensors", "config.json", "preprocess.json")
BATCH = 4096


@dataclass
class TablePredictor:
    """From a frame of new rows to a frame of predictions.

    Args:
        preprocessor: fitted on the training rows.
        tasks: in the order of the output columns.
        parts: the networks: their task names and settings (a joint model has one part), and in the settings, under
            "edits", which tasks were taken away or added since (`table.edits`).
        model: the trained weights.
        about: anything worth keeping (data source, arm, scores).
    """

    preprocessor: Preprocessor
    tasks: dict[str, Task]
    parts: list[tuple[tuple[str, ...], dict[str, Any]]]
    model: MultiTaskModel
    about: dict[str, Any] = field(default_factory=dict)

    def outputs(self, frame: pd.DataFrame) -> dict[str, Tensor]:
        """Decoded predictions per task (see `Task.decode`).

        Raises:
            UserError: the frame lacks a column, or a column has another type than in training.
        """
        import torch

        arrays = self.preprocessor.inputs(frame)
        source = TensorSource({key: torch.from_numpy(value) for key, value in arrays.items()}, {})
        return predict(self.model, self.tasks, source.batches(BATCH))

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One or more columns per task.

        A regression or count has its value; a binary task its label and `<task>_probability` of the positive label; a
        task of classes or levels its label and one `<task>_probability_<label>` each.
        """
        import pandas as pd

        columns: dict[str, Any] = {}
        for name, output in self.outputs(frame).items():
            columns |= task_columns(self.tasks[name], output)
        return pd.DataFrame(columns, index=frame.index)

    def shrink(self, keep: Sequence[str]) -> TablePredictor:
        """A smaller predictor of these tasks alone, with the same predictions (see `transfer.shrinking.shrink`)."""
        model = shrink(self.model, keep)
        tasks = {name: task for name, task in self.tasks.items() if name in model.names}
        labels = tuple(target for target in self.preprocessor.labels if target.name in tasks)
        statistics = {name: pair for name, pair in self.preprocessor.statistics.items() if name in tasks}
        preprocessor = replace(self.preprocessor, labels=labels, statistics=statistics)
        return TablePredictor(preprocessor, tasks, shrunk(self.parts, self.tasks, model.names), model, self.about)

    def grow(
        self, frame: pd.DataFrame, target: str, kind: str | None = None, how: str = "adapters", **options: Any
    ) -> TablePredictor:
        """A predictor of one task more, learnt from the labelled rows of a frame (see `transfer.few_shot.few_shot`).

        Args:
            frame: the input columns, and a column `target` with labels; cells may be empty.
            target: of the new task.
            kind: "regression", "binary" ...; by default as the cells look.
            how: "adapters", "head", "ridge", "prototypes", "full".
            options: of `few_shot`.

        Raises:
            UserError: a task or an input column of this name, a column that the frame lacks, too few labels.
        """
        preprocessor, task, rows = read_new_task(self.preprocessor, frame, target, kind)
        model = few_shot(self.model, task, rows, how, **options)
        parts = grown(self.parts, target, cast(Grown, model.trunk))
        return TablePredictor(preprocessor, self.tasks | {target: task}, parts, model, self.about)

    def save(self, folder: Path) -> None:
        """Write `model.safetensors`, `config.json`, `preprocess.json`, and `manifest.json` last."""
        from safetensors.torch import save

        import polytask

        files.make_folder(folder)
        (folder / files.MANIFEST).unlink(missing_ok=True)  # until the new one is there, the folder is not a model
        state = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        files.write_bytes(folder / "model.safetensors", save(state))
        config = {
            "tasks": [task.to_json() for task in self.tasks.values()],
            "parts": [{"tasks": list(names), "settings": settings} for names, settings in self.parts],
            "about": self.about,
        }
        files.write_json(folder / "config.json", config)
        files.write_json(folder / "preprocess.json", self.preprocessor.to_json())
        files.write_manifest(folder, KIND, {"polytask": polytask.__version__})

    @classmethod
    def load(cls, folder: Path) -> TablePredictor:
        """Read a folder that `save` wrote; checksums first. Nothing is ever unpickled.

        Raises:
            UserError: not such a folder, or altered.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        known = files.check_manifest(folder, KIND)["files"]
        for name in FILES:
            if name not in known:
                raise UserError(f"{folder} is not a whole model: its manifest does not list '{name}'")
        config = files.read_json(folder / "config.json")
        try:
            preprocessor = Preprocessor.from_json(files.read_json(folder / "preprocess.json"))
            tasks = {spec["name"]: Task.from_json(spec) for spec in config["tasks"]}
            parts = [(tuple(part["tasks"]), part["settings"]) for part in config["parts"]]
            model = build(tasks, preprocessor, parts)
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except UserError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError, SafetensorError, OSError) as error:
            raise UserError(f"{folder}: the files of this model do not fit together ({error})") from error
        return cls(preprocessor, tasks, parts, model.eval(), config.get("about", {}))


def build(
    tasks: Mapping[str, Task], preprocessor: Preprocessor, parts: Sequence[tuple[Sequence[str], Mapping[str, Any]]]
) -> MultiTaskModel:
    """The untrained model of these parts."""
    return combine([network(tasks, preprocessor.shape, names, settings) for names, settings in parts])


def task_columns(task: Task, output: Tensor) -> dict[str, Any]:
    """The columns of one task's predictions, in the words of the user's labels."""
    import numpy as np

    values = output.numpy().astype(np.float64)
    if task.labels is None:
        return {task.name: values}
    labels = np.array(task.labels, dtype=object)
    chosen = task.decide(output).numpy()
    if task.kind == "binary":
        return {task.name: labels[chosen], f"{task.name}_probability": values}
    spread = {f"{task.name}_probability_{label}": values[:, i] for i, label in enumerate(labels)}
    return {task.name: labels[chosen], **spread}
