"""The import table and the packaging promises of ARCHITECTURE.md."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).parents[1]
LINKED = ("kernels", "indexes", "eval", "service")
OWN = ("corpus", "encoders", "training", "building", "search", "cli")
# The ground floor: files of lsr/ itself.
GROUND = {
    *("answers", "documents", "facet", "filter", "filter_json", "filter_text", "idf", "lines"),
    *("paths", "progress", "query_text", "request", "request_stages", "run", "vectors"),
}

# Room → the rooms that it may import besides itself. A room stands below those that import it.
MAY_IMPORT: dict[str, set[str]] = {
    "ground": set(),
    "kernels": set(),
    "corpus": {"ground"},
    "indexes": {"ground"},
    "encoders": {"ground", "kernels"},
    "training": {"ground", "corpus", "kernels", "encoders", "indexes"},
    "building": {"ground", "corpus", "encoders", "indexes"},
    "search": {"ground", "encoders", "indexes", "building"},
    "client": {"ground"},
    "lsr": {"encoders"},
}
MAY_IMPORT["service"] = {*MAY_IMPORT["search"], "corpus", "search", "lsr"}
MAY_IMPORT["eval"] = {*MAY_IMPORT["search"], "corpus", "kernels", "training", "search", "lsr"}
MAY_IMPORT["benchmarks"] = {*MAY_IMPORT["eval"], "eval", "service", "client"}
MAY_IMPORT["cli"] = {*MAY_IMPORT["benchmarks"]} - {"benchmarks"}


def modules() -> dict[str, Path]:
    """Return the path of every module by its dotted name."""
    own = (ROOT / "lsr" / folder for folder in OWN)
    files = [
        *(ROOT / "lsr").glob("*.py"),
        *(path for folder in own for path in folder.rglob("*.py")),
    ]
    found = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    for folder in LINKED:
        for path in (ROOT / folder).rglob("*.py"):
            found[".".join(("lsr", *path.relative_to(ROOT).with_suffix("").parts))] = path
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


def room_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1:
        return "lsr"
    if parts[1] in GROUND:
        return "ground"
    if parts[1] == "__main__":
        return "cli"
    if parts[1:3] == ["eval", "benchmarks"]:
        return "benchmarks"
    assert parts[1] in MAY_IMPORT, f"{module} has no place in the import table"
    return parts[1]


def imports_of(source: str) -> list[tuple[int, str]]:
    """Return (line, module) of each import of ours, wherever in the file it stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [
                (node.lineno, name if name in KNOWN or is_room(str(node.module)) else node.module)
                for name in names
            ]
    return [(line, name) for line, name in found if name.split(".")[0] in ("lsr", *LINKED)]


def is_room(module: str) -> bool:
    """Whether a name is that of a folder without an __init__.py."""
    return module not in KNOWN and any(name.startswith(f"{module}.") for name in KNOWN)


def violations(module: str, source: str) -> list[str]:
    room = room_of(module)
    problems = []
    for line, name in imports_of(source):
        if name == "lsr" or name.startswith("lsr.__"):
            continue
        if not name.startswith("lsr"):
            problems.append(f"{module}:{line}: import {name} as lsr.{name}")
        elif room_of(name) not in MAY_IMPORT[room] | {room}:
            problems.append(f"{module}:{line}: {room} may not import {name}")
    return problems


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other, directly or by way of others."""
    rows = sorted(imports)
    number = {name: at for at, name in enumerate(rows)}
    edges = [(number[a], number[b]) for a in rows for b in imports[a] if b in number and a != b]
    matrix = coo_array(
        (np.ones(len(edges)), np.array(edges, int).reshape(-1, 2).T), shape=(len(rows),) * 2
    )
    count, labels = connected_components(matrix, connection="strong")
    groups = [[rows[at] for at in np.flatnonzero(labels == label)] for label in range(count)]
    return [group for group in groups if len(group) > 1]


KNOWN = modules()


@pytest.mark.parametrize("module", sorted(KNOWN))
def test_import_table(module: str) -> None:
    assert violations(module, KNOWN[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("lsr.kernels.cpu", "import lsr.vectors", "kernels may not import lsr.vectors"),
        ("lsr.run", "def f():\n    from lsr import search", "ground may not import lsr.search"),
        ("lsr.indexes.lucene", "from lsr.encoders.load import f", "indexes may not import"),
        ("lsr.search.passes", "from lsr.eval.measures import f", "search may not import"),
        ("lsr.building.build", "from lsr.search import Searcher", "building may not import"),
        ("lsr.training.run", "from lsr.eval.learning import f", "training may not import"),
        ("lsr.eval.report", "from lsr.cli import app", "eval may not import lsr.cli"),
        ("lsr.eval.report", "from lsr.eval.benchmarks import head", "eval may not import"),
        ("lsr.client", "from lsr.search import Searcher", "client may not import lsr.search"),
        ("lsr.search.passes", "from lsr.service.app import f", "search may not import lsr.service"),
        ("lsr.search.passes", "from kernels.cpu import f", "import kernels.cpu as lsr.kernels.cpu"),
    ],
)
def test_the_table_catches_violations(module: str, source: str, problem: str) -> None:
    (found,) = violations(module, source)
    assert problem in found


def test_the_table_sees_every_folder() -> None:
    assert {room_of(module) for module in KNOWN} == set(MAY_IMPORT)
    assert room_of("lsr.cli.training") == "cli" and "lsr.cli.training" in KNOWN


def test_no_circle_of_rooms_or_files() -> None:
    files = {
        module: {name for _, name in imports_of(path.read_text(encoding="utf-8"))}
        for module, path in KNOWN.items()
    }
    assert circles(files) == []
    assert circles(MAY_IMPORT) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


# Names of other libraries with an underscore, but public nevertheless.
PUBLIC = {"_asdict", "_replace", "_ctypes"}


def own_names(source: str) -> set[str]:
    """Return the names that a file defines: functions, classes, fields and attributes of self."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return found


def private_names(source: str, own: set[str]) -> set[str]:
    """Return the names with an underscore that a file uses and that are not `own`."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            used |= {part.value for part in node.args[1:2] if isinstance(part, ast.Constant)}
    return {name for name in used if re.match("_[a-z]", name) and name not in own | PUBLIC}


def test_private_names_of_other_libraries_are_in_one_file() -> None:
    sources = {module: path.read_text(encoding="utf-8") for module, path in KNOWN.items()}
    own = set().union(*map(own_names, sources.values()))
    found = {module: private_names(source, own) for module, source in sources.items()}
    assert {module: names for module, names in found.items() if names} == {
        "lsr.encoders.private": {"_attn_implementation", "_init_weights"}
    }
    assert private_names("from a import _b\nc._d = getattr(e, '_f')\n_g()", {"_d"}) == {"_b", "_f"}


@pytest.mark.parametrize("folder", LINKED)
def test_linked_folders_are_no_top_level_packages(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert (ROOT / "lsr" / folder).resolve() == ROOT / folder
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize("module", ["lsr", "lsr.cli"])
def test_import_loads_nothing_heavy(module: str) -> None:
    heavy = "'torch', 'transformers', 'sentence_transformers', 'ir_datasets', 'jnius', 'scipy'"
    code = f"import sys, {module}; print(sorted({{{heavy}}} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
