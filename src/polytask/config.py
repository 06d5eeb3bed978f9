"""What a study can be asked, once, for the command line, YAML and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from polytask.errors import UserError, nearest

MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 20

C = TypeVar("C", bound="DataConfig")


def parse_pairs(words: Any) -> Any:
    """'a,b:binary' -> {'a': None, 'b': 'binary'}; a mapping, or a list of names and of one-word mappings, is as good.

    Names with a comma can only be given in YAML, as a list or mapping.
    """
    if isinstance(words, str):
        words = _between_commas(words)
    if isinstance(words, (list, tuple)):
        pairs: dict[str, Any] = {}
        for word in words:
            if isinstance(word, (list, tuple, set)):
                raise ValueError("must be names, each with a kind if wanted, like  a,b:binary")
            for name, kind in word.items() if isinstance(word, dict) else [_name_and_kind(str(word))]:
                if name in pairs:
                    raise ValueError(f"'{name}' is given twice")
                pairs[name] = kind
        words = pairs
    return {str(name): kind for name, kind in words.items()} if isinstance(words, dict) else words


def _name_and_kind(word: str) -> tuple[str, str | None]:
    name, colon, kind = word.rpartition(":")
    return (name, kind) if colon else (word, None)


def _between_commas(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def parse_list(words: Any) -> Any:
    """'a, b' -> ['a', 'b'], each once."""
    if isinstance(words, str):
        words = _between_commas(words)
    return list(dict.fromkeys(map(str, words))) if isinstance(words, (list, tuple)) else words


def parse_seconds(text: Any) -> Any:
    """'90', '90s', '2m', '1.5h' -> seconds."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return text
    number, unit = (text[:-1], text[-1]) if isinstance(text, str) and text[-1:] in ("s", "m", "h") else (text, "s")
    try:
        return float(str(number)) * {"s": 1, "m": 60, "h": 3600}[unit]
    except ValueError as error:
        raise ValueError("must look like 90s, 2m or 1.5h") from error


def parse_needs(words: Any) -> Any:
    """'buy:click' or {buy: [click, view]} -> {'buy': ('click', 'view')}."""
    pairs = parse_pairs(words)
    if not isinstance(pairs, dict):
        return pairs
    return {name: tuple(parse_list(needed)) if needed else () for name, needed in pairs.items()}


def parse_factor(text: Any) -> Any:
    """A factor that stays, '3', or one that fades in a straight line, '1..0', as (start, end)."""
    parts = str(text).split("..")
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise ValueError("must be a number like 3, or a change like 1..0") from error
    if len(numbers) > 2 or any(not 0 <= number < float("inf") for number in numbers):
        raise ValueError("must be a number of at least 0 like 3, or a change like 1..0")
    return numbers[0], numbers[-1]


Pairs = Annotated[dict[str, str | None], BeforeValidator(parse_pairs)]
Names = Annotated[list[str], BeforeValidator(parse_list)]
Words = Annotated[dict[str, str], BeforeValidator(parse_pairs)]
Numbers = Annotated[dict[str, float], BeforeValidator(parse_pairs)]
Needs = Annotated[dict[str, tuple[str, ...]], BeforeValidator(parse_needs)]
Factor = Annotated[tuple[float, float], BeforeValidator(parse_factor)]
Factors = Annotated[dict[str, Factor], BeforeValidator(parse_pairs)]


class DataConfig(BaseModel):
    """Which columns are what. The same words in YAML and on the command line."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    data: str | None = None
    targets: Pairs = Field(default_factory=dict)
    kinds: Pairs = Field(default_factory=dict)
    drop: Names = Field(default_factory=list)
    group: str | None = None
    time: str | None = None
    split: str | None = None
    holdout: str | None = None
    needs: Needs = Field(default_factory=dict)
    class_weights: Words = Field(default_factory=dict)
    focal: Numbers = Field(default_factory=dict)
    seed: int = Field(0, ge=0, lt=2**32)

    def columns(self) -> dict[str, Any]:
        """The words that `table.opening.open_table` takes."""
        words = ("targets", "kinds", "drop", "group", "time", "split", "holdout", "seed")
        return {word: getattr(self, word) for word in words}

    def learning(self) -> dict[str, Any]:
        """The words about tasks that `table.prepare.prepare` takes besides."""
        return {"needs": self.needs, "class_weights": self.class_weights, "focal": self.focal}


class StudyConfig(DataConfig):
    """What a study can be asked.

    >>> StudyConfig(targets="a,b:binary", budget="2m").budget
    120.0
    """

    domain: str | None = None
    features: list[dict[str, Any]] | None = Field(None, min_length=1)
    arms: Names | None = Field(None, min_length=1)
    seeds: int = Field(5, ge=2, le=100)
    trials: int = Field(2, ge=1, le=4)
    budget: Annotated[float | None, BeforeValidator(parse_seconds)] = Field(None, gt=0)
    models: int | None = Field(None, ge=1)
    cures: bool = True
    distil: bool = False
    merge: bool = False
    epochs: int = Field(300, ge=1)
    patience: int = Field(12, ge=1)
    batch_size: int | None = Field(None, ge=1)
    jobs: int | None = Field(None, ge=1)
    device: str = "auto"
    precision: str = "auto"
    out: str = "polytask-study"


class RelateConfig(DataConfig):
    """What can be asked of the signals of relatedness."""

    train: bool = False
    models: int | None = Field(None, ge=1)
    epochs: int = Field(100, ge=1)
    patience: int = Field(12, ge=1)
    batch_size: int | None = Field(None, ge=1)
    device: str = "cpu"
    out: str = "polytask-relate"


class StageConfig(BaseModel):
    """One stage of a training plan: the words of `training.Stage`; what is not said is as in the whole `FitConfig`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = ""
    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    tasks: Names | None = None
    train: Names | None = None
    freeze: Names = Field(default_factory=list)
    rates: Numbers = Field(default_factory=dict)
    depth_decay: float = Field(1.0, gt=0)
    pace: str = "constant"
    reset: Names = Field(default_factory=list)
    alternate: Names = Field(default_factory=list)
    rule: str | None = None

    def words(self) -> dict[str, Any]:
        """What was said."""
        return self.model_dump(exclude_unset=True)


class FitConfig(DataConfig):
    """What a single training can be asked."""

    trunk: str = "hard"
    balancer: str = "equal"
    sampler: str = "all"
    rule: str = "mean"
    weights: Factors = Field(default_factory=dict)
    weights_epochs: int = Field(30, ge=1)
    augment: Words = Field(default_factory=dict)
    finish: Names = Field(default_factory=list)
    plan: str | None = None
    stages: list[StageConfig] | None = Field(None, min_length=1)
    stream: bool = False
    width: int = Field(128, ge=1)
    depth: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    epochs: int = Field(300, ge=1)
    patience: int = Field(12, ge=1)
    batch_size: int | None = Field(None, ge=1)
    device: str = "auto"
    precision: str = "auto"
    out: str = "polytask-model"


class FineTuneConfig(DataConfig):
    """What a fine-tuning can be asked; what is not said of a recipe is as the recipe has it."""

    starts: Names = Field(default_factory=list, alias="from")
    recipe: str = "careful"
    lr: float | None = Field(None, gt=0)
    head_factor: float | None = Field(None, gt=0)
    depth_decay: float | None = Field(None, gt=0)
    unfreeze: int | None = Field(None, ge=0)
    reinit: int | None = Field(None, ge=0)
    frozen: Names | None = None
    weight_decay: float | None = Field(None, ge=0)
    epochs: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    soup: int | None = Field(None, ge=0)
    rule: str | None = None
    search: bool = False
    folds: int = Field(5, ge=2, le=50)
    seeds: int = Field(3, ge=1, le=100)
    batch_size: int | None = Field(None, ge=1)
    device: str = "auto"
    precision: str = "auto"
    out: str = "polytask-tuned"

    def changes(self) -> dict[str, Any]:
        """The words about the recipe that were said."""
        words = ("lr", "head_factor", "depth_decay", "unfreeze", "reinit", "weight_decay", "epochs", "patience", "soup",
                 "rule")  # fmt: skip
        said = {word: getattr(self, word) for word in words if getattr(self, word) is not None}
        return said | ({} if self.frozen is None else {"frozen": tuple(self.frozen)})


def load_config(kind: type[C], yaml_file: Path | None, given: dict[str, Any]) -> C:
    """A configuration from a YAML file and from options; an option wins over the file.

    Raises:
        UserError: all problems at once, a line each, with the nearest known word.
    """
    written = read_yaml(yaml_file) if yaml_file else {}
    options = {key: value for key, value in given.items() if value is not None}
    try:
        return kind(**(written | options))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            from_file = yaml_file is not None and problem["loc"][0] not in options
            lines.append((f"{yaml_file}: " if from_file else "") + _sentence(kind, problem))
        raise UserError("\n".join(lines)) from error


EXPECTED = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "dict_type": "must be names, each with a kind if wanted, like  a,b:binary",
    "list_type": "must be a list, like  a,b",
    "too_short": "must not be empty",
}
"""What is wrong with a value, in words, by pydantic's name of the problem."""


def _sentence(kind: type[BaseModel], problem: Any) -> str:
    word = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        fields = StageConfig.model_fields if "stages" in problem["loc"] else kind.model_fields
        return f"unknown key '{word}'{nearest(str(problem['loc'][-1]), fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in EXPECTED:
        message = EXPECTED[problem["type"]].format(**problem.get("ctx", {}))
    got = repr(problem["input"])
    return f"'{word}': {message}, got {got if len(got) <= 60 else got[:57] + '...'}"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain data; size-limited, without aliases (they can grow without bound) and without code."""
    import yaml

    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(text) > MAX_YAML_BYTES:
        raise UserError(f"{path} is larger than {MAX_YAML_BYTES} bytes: not a configuration")
    try:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{path}: YAML aliases (*name) are not allowed here; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise UserError(f"{path}: nested too deeply")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        content = loader.construct_document(node) if node is not None else None
    except UserError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except ValueError as error:  # a date such as 2024-99-99
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} must be a mapping of words to values, like  targets: a,b")
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"{path}: '{key}' is given twice")
    return {str(key): value for key, value in content.items()}
