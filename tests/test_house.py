"""The rules of the house that a machine can check: who imports whom, sizes, public names, a light start."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import polytask

SOURCE = Path(polytask.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# A room imports only from the rooms above it in this list, and from itself.
# Rooms on one line do not know each other.
LAYERS = [
    ["errors"],
    ["batch", "files", "pace", "records"],
    ["losses", "metrics"],
    ["task"],
    ["divergences", "encoders", "hugging_face", "relate"],
    ["gradients"],
    ["balance"],
    ["trunks"],
    ["links"],
    ["heads", "model"],
    ["sampling"],
    ["devices"],
    ["training"],
    ["affinity"],
    ["transfer"],
    ["names"],
    ["table"],
    ["config", "reports"],
    ["study"],
    ["estimator", "datasets", "domains"],
    ["testing", "plot"],
    ["cli"],
    ["__main__"],
]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
ABOVE_ALL = {"__init__"}  # the front door names everything, and imports it only when it is used
APART = {"reports": {"errors", "files"}, "relate": {"errors"}, "gradients": set()}  # rooms that need even less


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    """Names of polytask's rooms that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [node.module]
            if node.module == "polytask":
                modules = [f"polytask.{polytask._HOMES.get(a.name, a.name)}" for a in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "polytask" and len(parts) > 1 and parts[1] != "__version__":
                yield parts[1]


def test_every_room_has_its_place():
    assert {room_of(path) for path in FILES} - ABOVE_ALL <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_from_above(path):
    room = room_of(path)
    if room in ABOVE_ALL:
        return
    for other in set(imports(path)) - {room}:
        assert RANK[other] < RANK[room], f"{path.name} imports {other}"
        assert other in APART.get(room, RANK), f"{path.name} imports {other}"


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def swallows(handler):
    """Whether an `except` takes everything and does nothing with it."""
    names = [n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)] if handler.type else ["BaseException"]
    silent = all(isinstance(s, (ast.Pass, ast.Continue)) for s in handler.body)
    return handler.type is None or (silent and {"Exception", "BaseException"} & set(names))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_style_of_a_file(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module opens with one sentence"
    assert len(text.splitlines()) <= 450
    assert path.stem not in ("utils", "helpers", "common", "misc")
    for function in functions(tree):
        assert function.end_lineno - function.lineno < 70, function.name
    for handler in (n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)):
        assert not swallows(handler), f"line {handler.lineno} swallows every error"


@pytest.mark.parametrize("name", polytask.__all__)
def test_public_names_exist_and_say_what_they_are(name):
    thing = getattr(polytask, name)
    assert name in dir(polytask)
    if name != "__version__":
        assert inspect.getdoc(thing)
        assert thing.__module__.startswith("polytask.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Equals'"):
        polytask.Equals  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.asname: n.module for n in block.body for a in n.names}
    assert seen == {name: f"polytask.{home}" for name, home in polytask._HOMES.items()}


@pytest.mark.parametrize("room", ["balance", "relate", "sampling", "table", "trunks"])
def test_rooms_list_what_they_give(room):
    module = importlib.import_module(f"polytask.{room}")
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert all(hasattr(module, name) for name in module.__all__)


HEAVY = ("torch", "pandas", "numpy", "sklearn", "torchmetrics")


@pytest.mark.parametrize("code", [
    "import polytask; dir(polytask)",
    "import sys, runpy; sys.argv = ['polytask', '--help']; runpy.run_module('polytask', run_name='__main__')",
])  # fmt: skip
def test_a_light_start(code):
    probe = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", [m for m in {HEAVY} if m in sys.modules]))
{code}
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
