"""What a study can be asked, once, for the command line, YAML and Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from polytask.errors import UserError, nearest

MAX_YAML_BYTES = 1_000_000

C = TypeVar("C", bound="DataConfig")


def parse_pairs(words: Any) -> Any:
    """'a,b:binary' -> {'a': None, 'b': 'binary'}; mappings and lists are taken as they are meant."""
    if isinstance(words, str):
        words = [word.strip() for word in words.split(",") if word.strip()]
    if isinstance(words, (list, tuple)):
        pairs: dict[str, str | None] = {}
        for word in words:
            name, colon, kind = str(word).rpartition(":")
            name, value = (name, kind) if colon else (kind, None)
            if name in pairs:
                raise ValueError(f"'{name}' is given twice")
            pairs[name] = value
        return pairs
    return words


def parse_list(words: Any) -> Any:
    """'a, b' -> ['a', 'b']."""
    return [word.strip() for word in words.split(",") if word.strip()] if isinstance(words, str) else words


def parse_seconds(text: Any) -> Any:
    """'90', '90s', '2m', '1.5h' -> seconds."""
    if isinstance(text, str):
        number, unit = (text[:-1], text[-1]) if text[-1:] in "smh" else (text, "s")
        try:
            return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
        except ValueError as error:
            raise ValueError(f"a budget looks like 90s, 2m or 1.5h, not '{text}'") from error
    return text


Pairs = Annotated[dict[str, str | None], BeforeValidator(parse_pairs)]
Names = Annotated[list[str], BeforeValidator(parse_list)]


class DataConfig(BaseModel):
    """Which columns are what. The same words in YAML and on the command line."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = None
    targets: Pairs = Field(default_factory=dict)
    kinds: Pairs = Field(default_factory=dict)
    drop: Names = Field(default_factory=list)
    group: str | None = None
    time: str | None = None
    split: str | None = None
    holdout: str | None = None
    seed: int = 0


class StudyConfig(DataConfig):
    """What a study can be asked.

    >>> StudyConfig(targets="a,b:binary", budget="2m").budget
    120.0
    """

    arms: Names | None = None
    seeds: int = Field(5, ge=2, le=100)
    trials: int = Field(3, ge=1, le=4)
    budget: Annotated[float | None, BeforeValidator(parse_seconds)] = Field(None, gt=0)
    epochs: int = Field(150, ge=1)
    patience: int = Field(16, ge=1)
    batch_size: int | None = Field(None, ge=1)
    jobs: int | None = Field(None, ge=1)
    device: str = "auto"
    precision: str = "auto"
    out: str = "polytask-study"


class FitConfig(DataConfig):
    """What a single training can be asked."""

    trunk: str = "hard"
    balancer: str = "equal"
    width: int = Field(128, ge=1)
    depth: int = Field(2, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    epochs: int = Field(150, ge=1)
    patience: int = Field(16, ge=1)
    batch_size: int | None = Field(None, ge=1)
    device: str = "auto"
    precision: str = "auto"
    out: str = "polytask-model"


def load_config(kind: type[C], yaml_file: Path | None, given: dict[str, Any]) -> C:
    """A configuration from a YAML file and from options; an option wins over the file.

    Raises:
        UserError: all problems at once, a line each, with the nearest known word.
    """
    content = read_yaml(yaml_file) if yaml_file else {}
    content |= {key: value for key, value in given.items() if value not in (None, [], ())}
    try:
        return kind(**content)
    except ValidationError as error:
        place = f"{yaml_file}: " if yaml_file else ""
        raise UserError("\n".join(place + _sentence(kind, problem) for problem in error.errors())) from error


def _sentence(kind: type[BaseModel], problem: Any) -> str:
    word = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{word}'{nearest(word, kind.model_fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"'{word}': {message[0].lower()}{message[1:]}, got {problem['input']!r}"


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
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UserError(f"{path}: YAML aliases (*name) are not allowed here; write the value out")
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must be a mapping of words to values, like  targets: a,b")
    return content
