"""The dependency rules of docs/design.md, read from the imports of every module."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATHS = sorted(ROOT.glob("ch4jax/**/*.py")) + sorted(ROOT.glob("experiments/**/*.py"))
DOTTED = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PATHS]
FILES = {n.removesuffix(".__init__"): p for n, p in zip(DOTTED, PATHS, strict=True)}
NODES = {n: list(ast.walk(ast.parse(p.read_text("utf-8")))) for n, p in FILES.items()}
LIBRARY = [name for name in FILES if name.startswith("ch4jax.")]
EXPERIMENTS = [name for name in FILES if name.startswith("experiments.")]
ENGINE = {"training", "storage", "interop", "data", "errors"}
TOPICS = {name: set() for name in ENGINE}  # module -> the topics that it may import
TOPICS |= {"initialization": set(), "dropout": {"initialization"}}
TOPICS |= {"parity": {"statistics"}}
HOMES = {  # large package -> the only modules, or packages, that may import it
    "matplotlib": {"experiments.common.plots", "experiments.common.explore"},
    "tyro": {"experiments.common.cli"},
    "orbax": {"ch4jax.storage"},
    "pandas": {"ch4jax.house_prices", "experiments.house_prices"},
    "jinja2": {"experiments.report"},
    "torch": {
        *("ch4jax.interop", "ch4jax.parity", "experiments.pytorch"),
        *("experiments.benchmark", "experiments.compare"),
    },
}


def within(name, package):
    return f"{name}.".startswith(f"{package}.")


def imported(name):
    """Return the dotted names that a module imports, wherever the import stands."""
    found = set()
    for node in NODES[name]:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dependencies(name):
    """Return the modules of the project that run when `name` is imported.

    Its own package's `__init__` is not among them, unless it is imported itself.
    """
    targets = imported(name)
    parts = [target.split(".") for target in targets]
    whole = {".".join(part[:i]) for part in parts for i in range(1, len(part) + 1)}
    around = {package for package in whole if within(name, package)}
    asked = {t if t in FILES else t.rpartition(".")[0] for t in targets}
    return (whole - around | asked) & FILES.keys()


def others(name):
    """Return what a module imports from beside it in `ch4jax` or `experiments`."""
    top, own = name.split(".")[:2]
    beside = [d.split(".") for d in dependencies(name) if d.startswith(f"{top}.")]
    return {part[1] for part in beside} - {own}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_imports_no_experiment_and_topics_only_two_other_topics(name):
    above = {"experiments", "tests", "rich", "tyro", "matplotlib"}
    assert not {target.split(".")[0] for target in imported(name)} & above
    topics = TOPICS.get(name.split(".")[1], {"dropout", "initialization"})
    assert others(name) - ENGINE <= topics


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_imports_no_other_command_and_no_test(name):
    assert "tests" not in {target.split(".")[0] for target in imported(name)}
    assert others(name) <= {"common", "pytorch", "__main__"}


def test_no_module_imports_itself_by_way_of_others():
    graphlib.TopologicalSorter({name: dependencies(name) for name in FILES}).prepare()


@pytest.mark.parametrize("package", HOMES)
def test_a_large_package_is_imported_only_at_its_home(package):
    users = {n for n in FILES if any(within(target, package) for target in imported(n))}
    assert {n for n in users if not any(within(n, h) for h in HOMES[package])} == set()


@pytest.mark.parametrize(("folder", "most"), [("ch4jax", 12), ("experiments", 16)])
def test_few_modules_lie_directly_in_a_folder(folder, most):
    assert len(list((ROOT / folder).glob("*.py"))) <= most


def test_imports_are_at_the_top_and_types_are_real():
    inside, loose = set(), set()
    for name, nodes in NODES.items():
        anything = {"Any", "object", "typing.Any"}
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module == "typing":
                anything |= {a.asname for a in node.names if a.name == "Any"} - {None}
            elif isinstance(node, ast.Assign) and ast.unparse(node.value) in anything:
                anything |= {ast.unparse(target) for target in node.targets}
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom) and node.col_offset:
                inside.add((name, node.lineno))
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.endswith(("import_module", "__import__")):
                inside.add((name, node.lineno))
            if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
                first = re.match(r"'?([\w.]+)", ast.unparse(node.annotation))
                loose |= {(name, node.lineno)} if first[1] in anything else set()
    assert len(inside) <= 40, sorted(inside)
    assert len(loose) <= 45, sorted(loose)


def test_importing_the_library_touches_no_device_changes_nothing_and_prints_nothing():
    code = f"""
import jax, jax._src.xla_bridge, sys
before = dict(jax.config.values)
import {", ".join(LIBRARY)}
assert not jax._src.xla_bridge._backends, "a device was touched"
assert jax.config.values == before, "a setting was changed"
assert "torch" not in sys.modules, "PyTorch was imported"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_map_of_the_design_names_every_public_module_and_nothing_else():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    mapped, folders = set(), []
    for line in re.search(r"^```\n(ch4jax/.*?)^```", text, re.M | re.S)[1].splitlines():
        entry = re.match(r"( *)([\w.]+/?)(?= |$)", line)
        folders[len(entry[1]) // 2 :] = [entry[2]]
        mapped.add("".join(folders))
    public = [path for path in PATHS if not path.name.startswith("_")]
    packages = [path.parent for path in PATHS if path.name == "__init__.py"]
    there = {str(path.relative_to(ROOT)) for path in public}
    assert mapped == there | {f"{path.relative_to(ROOT)}/" for path in packages}
