"""The import table and the packaging promises of ARCHITECTURE.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("kernels", "indexes", "eval", "service")
OWN = ("encoders", "training", "cli")
CORE = {
    "lsr.corpus",
    "lsr.pydoc",
    "lsr.vectors",
    "lsr.run",
    "lsr.request",
    "lsr.fusion",
    "lsr.feedback",
    "lsr.answers",
}
APPLICATION = {
    *("lsr.indexing", "lsr.live", "lsr.tuning", "lsr.passes", "lsr.explanation"),
    *("lsr.search", "lsr.display", "lsr.highlight", "lsr.writing"),
}

# Group → the groups it may import besides itself.
MAY_IMPORT = {
    "kernels": set(),
    "core": set(),
    "encoders": {"core", "kernels"},
    "indexes": {"core"},
    "training": {"core", "kernels", "encoders", "indexes"},
    "application": {"core", "encoders", "indexes"},
    "eval": {"core", "kernels", "encoders", "training", "application", "indexes", "lsr"},
    "service": {"core", "encoders", "application", "indexes", "client", "lsr"},
    "client": {"core"},
    "demo": {"core", "application", "indexes", "eval"},
    "cli": {
        *("core", "kernels", "encoders", "training", "application", "indexes", "eval", "demo"),
        *("lsr", "service"),
    },
    "lsr": {"encoders"},
}


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


def group_of(module: str) -> str:
    parts = module.split(".")
    if ".".join(parts[:2]) in CORE:
        return "core"
    if ".".join(parts[:2]) in APPLICATION:
        return "application"
    if len(parts) == 1:
        return "lsr"
    assert parts[1] in MAY_IMPORT, f"{module} has no place in the import table"
    return parts[1]


def imports_of(source: str) -> list[tuple[int, str]]:
    """Return (line, module) of each import of ours, wherever in the file it stands."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module not in ("lsr", *(f"lsr.{name}" for name in (*OWN, *LINKED))):
                names = [str(node.module)]
        else:
            continue
        found += [(node.lineno, name) for name in names]
    return [(line, name) for line, name in found if name.split(".")[0] in ("lsr", *LINKED)]


def violations(module: str, source: str) -> list[str]:
    group = group_of(module)
    problems = []
    for line, name in imports_of(source):
        if name == "lsr.__version__":
            continue
        if not name.startswith("lsr"):
            problems.append(f"{module}:{line}: import {name} as lsr.{name}")
        elif group_of(name) not in MAY_IMPORT[group] | {group}:
            problems.append(f"{module}:{line}: {group} may not import {name}")
    return problems


@pytest.mark.parametrize("module", sorted(modules()))
def test_import_table(module: str) -> None:
    assert violations(module, modules()[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("lsr.kernels.cpu", "import lsr.vectors", "kernels may not import lsr.vectors"),
        ("lsr.run", "def f():\n    from lsr import search", "core may not import lsr.search"),
        ("lsr.indexes.lucene", "from lsr.encoders.load import f", "indexes may not import"),
        ("lsr.search", "from lsr.eval.measures import evaluate", "application may not import"),
        ("lsr.eval.report", "from lsr.cli import app", "eval may not import lsr.cli"),
        ("lsr.client", "from lsr.search import Searcher", "client may not import lsr.search"),
        ("lsr.search", "from lsr.service.app import f", "application may not import lsr.service"),
        ("lsr.search", "from kernels.cpu import f", "import kernels.cpu as lsr.kernels.cpu"),
    ],
)
def test_the_table_catches_violations(module: str, source: str, problem: str) -> None:
    (found,) = violations(module, source)
    assert problem in found


def test_the_table_sees_every_folder() -> None:
    assert {group_of(module) for module in modules()} == set(MAY_IMPORT)
    assert group_of("lsr.cli.training") == "cli" and "lsr.cli.training" in modules()


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
