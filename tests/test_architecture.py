"""The arrows of the house, read from the imports, and that importing runs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = sorted((ROOT / "ch4jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
ENGINE = {"training", "population", "folds", "sharding", "timing", "data"}
ENGINE |= {"storage", "atomic", "leaves", "manifest", "export", "torch_names"}
AT_HOME = {  # package -> the only files, or folders, that may import it
    "pandas": {
        "ch4jax/house_prices.py",
        "ch4jax/house_features.py",
        "ch4jax/data/house_tables.py",
        "experiments/house_members.py",
    },
    "torch": {
        "ch4jax/interop.py",
        "experiments/compare.py",
        "experiments/benchmark.py",
        "experiments/pytorch/",
    },
    "orbax": {"ch4jax/storage.py"},
    "safetensors": {"ch4jax/export.py", "ch4jax/interop.py"},
    "matplotlib": {"experiments/plots.py"},
    "tyro": {"experiments/cli.py"},
    "argparse": {"experiments/cli.py"},
}


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """Return every module that `path` imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(path):
    """Return the rooms of ch4jax that `path` imports."""
    parts = (name.split(".") for name in imports(path))
    return {part[1] for part in parts if part[0] == "ch4jax" and len(part) > 1}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_imports_nothing_from_above(path):
    above = {"experiments", "tests", "rich", "tyro"}
    assert not {name.split(".")[0] for name in imports(path)} & above


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_no_room_imports_a_topic_room(path):
    room = path.relative_to(ROOT / "ch4jax").parts[0].removesuffix(".py")
    assert rooms(path) - {room} <= ENGINE


@pytest.mark.parametrize("package", AT_HOME)
def test_a_package_is_imported_only_where_it_is_at_home(package):
    users = {
        name_of(path)
        for path in LIBRARY + EXPERIMENTS
        if package in {name.split(".")[0] for name in imports(path)}
    }
    homes = AT_HOME[package]
    assert {u for u in users if not u.startswith(tuple(homes))} == set()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_experiments_import_no_tests(path):
    assert "tests" not in {name.split(".")[0] for name in imports(path)}


def test_importing_every_room_touches_no_device_and_no_configuration():
    modules = [
        name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for path in LIBRARY
    ]
    code = f"""
import importlib, jax
before = dict(jax.config.values)
for name in {modules}:
    importlib.import_module(name)
from jax._src import xla_bridge
assert not xla_bridge._backends, "a device was touched"
changed = {{k for k, v in jax.config.values.items() if before[k] != v}}
assert not changed, changed
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_library_does_not_print():
    printing = {
        name_of(path)
        for path in LIBRARY
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert not printing
