"""The built-in collection: documentation of the standard library, or of installed packages.

`python -m lsr.pydoc [PACKAGE …]` prints it as JSON lines; the walk imports what it documents, so
that it happens in a process of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
import pkgutil
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from lsr.corpus import Document

# Import side effects (a browser, a poem, a window), tests, and tools that are no library.
EXCLUDED = {"antigravity", "this", "idlelib", "test", "turtledemo", "lib2to3", "__main__"}
# Docstrings that say nothing of their object: those of inherited slots and generated methods.
WORTHLESS = re.compile(
    r"(Initialize self\.|Return (self|key|value|repr|str|hash|getattr|len)\(|See help\(type|"
    r"Alias for)"
)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def read_pydoc(packages: Sequence[str] | None = None) -> Iterator[Document]:
    """Documents of modules, classes, functions and methods with a docstring, in order of id.

    The id is the qualified name, the title the signature, the text the docstring.

    Args:
        packages: installed packages; None for the standard library.

    Raises:
        ValueError: a package is not installed.
        RuntimeError: the walk failed; with the end of what it printed.
    """
    for package in packages or ():
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"package {package!r} is not installed: `pip install {package}`")
    walk = subprocess.run(
        [sys.executable, "-m", "lsr.pydoc", *(packages or ())],
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )
    if walk.returncode:
        raise RuntimeError(f"reading the documentation failed:\n{walk.stderr[-2000:]}")
    for line in walk.stdout.splitlines():
        yield Document(**json.loads(line))


def _walk(packages: Sequence[str]) -> dict[str, Document]:
    found: dict[str, Document] = {}
    seen: set[int] = set()
    roots = packages or sorted(sys.stdlib_module_names - EXCLUDED - {"posix", "nt"})
    for root in roots:
        if root.startswith("_"):
            continue
        for name in _submodules(root):
            module = _imported(name)
            if module is None:
                continue
            _add(found, name, f"module {name}", module, "module", name)
            for attribute, value in sorted(vars(module).items()):
                if attribute.startswith("_") or id(value) in seen:
                    continue
                home = getattr(value, "__module__", None) or ""
                # Objects of C modules (_thread, posix) are at home where they are exported.
                private = home.startswith("_") or home in ("posix", "nt", "builtins")
                if home != name and not private:
                    continue
                if home == "builtins" and name != "builtins":
                    continue
                seen.add(id(value))
                _add_object(found, name, attribute, value)
    return found


def _submodules(root: str) -> Iterator[str]:
    yield root
    module = _imported(root)
    paths = getattr(module, "__path__", None)
    if paths is None:
        return
    for info in sorted(pkgutil.iter_modules(paths), key=lambda info: info.name):
        if not info.name.startswith("_") and info.name not in ("tests", "test"):
            yield from _submodules(f"{root}.{info.name}")


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    # Windows-only modules, tkinter where there is no Tk, curses without a terminal library.
    except (ImportError, AttributeError) as error:
        print(f"skipped {name}: {error}", file=sys.stderr)
        return None


def _add_object(found: dict[str, Document], module: str, attribute: str, value: Any) -> None:
    prefix = "" if module == "builtins" else f"{module}."
    name = prefix + attribute
    if inspect.isclass(value):
        _add(found, name, _signature(name, value), value, "class", module)
        for member, raw in sorted(vars(value).items()):
            if member.startswith("_"):
                continue
            method = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
            if callable(method) or inspect.isdatadescriptor(method):
                title = _signature(f"{name}.{member}", method)
                _add(found, f"{name}.{member}", title, method, "method", module)
    elif callable(value):
        _add(found, name, _signature(name, value), value, "function", module)


def _signature(name: str, value: Any) -> str:
    try:
        return ADDRESS.sub("", name + str(inspect.signature(value)))
    # Builtins without one, properties, and (curses) defaults that inspect cannot evaluate.
    except (ValueError, TypeError, AttributeError, NameError):
        return name


def _add(
    found: dict[str, Document], name: str, title: str, value: Any, kind: str, module: str
) -> None:
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str) or len(text.split()) < 3 or WORTHLESS.match(text):
        return
    text = ADDRESS.sub("", inspect.cleandoc(text))
    found.setdefault(name, Document(name, title, text, {"kind": kind, "module": module}))


def _main() -> None:
    warnings.simplefilter("ignore")
    # What an import prints is not data.
    with contextlib.redirect_stdout(io.StringIO()):
        found = _walk(sys.argv[1:])
    for _, document in sorted(found.items()):
        record = {
            "id": document.id,
            "title": document.title,
            "text": document.text,
            "metadata": dict(document.metadata),
        }
        sys.stdout.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    _main()
