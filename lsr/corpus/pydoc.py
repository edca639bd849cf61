"""The built-in collection: documentation of the standard library, or of installed packages.

`python -m lsr.corpus.pydoc [PACKAGE …]` prints it as JSON lines. The walk runs in a process of its
own, since it imports the modules that it documents.
"""

from __future__ import annotations

import enum
import importlib.util
import inspect
import json
import os
import pkgutil
import pydoc
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any, NamedTuple

from lsr.documents import Document

# Modules left out: those with import side effects (a browser, a poem, a window), tests, and tools
# that are no library; distutils, which is setuptools' if that is installed; and the modules that
# implement os and os.path.
EXCLUDED = {"antigravity", "this", "idlelib", "test", "turtledemo", "lib2to3", "__main__"} | {
    "distutils", "posix", "nt", "posixpath", "ntpath", "genericpath", "nturl2path"
}  # fmt: skip
# Docstrings that say nothing about their object: those of inherited slots and generated methods.
WORTHLESS = re.compile(
    r"(Initialize self\.|Create and return a new object\.|An enumeration\.|Internal function\.|"
    r"Return (self|key|value|repr|str|hash|getattr|len)\(|Return None\.|See help\(type|Alias for|"
    r"XXX|[Ss]ee :?\S+$)"
)
# Modules whose classes are bases of unrelated classes: their docstrings are not inherited.
GENERIC = {"builtins", "ctypes", "_ctypes"}
HEADING = re.compile(r"^(\S.*)\n([*=~^-])\2{2,}\n", re.MULTILINE)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# The child process imports from its parent's paths, but from the standard library first.
START = (
    "import sys, json; sys.path += [p for p in json.loads(sys.argv.pop(1)) if p not in sys.path]; "
    "from lsr.corpus.pydoc import main; main()"
)


class _Place(NamedTuple):
    """A public name of an object, and where it is."""

    owner: str  # module, or class for a member
    attribute: str
    value: Any  # as the owner's namespace holds it
    module: str
    cls: type | None = None  # the class that a member is of
    depth: int = 0  # how far up the bases of `cls` a member is defined
    incidental: bool = False  # in a module whose __all__ leaves it out
    instance: bool = False  # the name is an instance's, and `value` its class, which has none

    @property
    def id(self) -> str:
        return self.attribute if self.owner == "builtins" else f"{self.owner}.{self.attribute}"

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sort key: an object's own name first, then where it is defined, then the shortest."""
        names = [(self.attribute, _underlying(self.value))]
        if self.cls is not None:
            names.append((self.owner.rpartition(".")[2], self.cls))
        renamed = any(getattr(value, "__name__", name) != name for name, value in names)
        length = (self.id.count("."), len(self.id))
        return (
            self.instance,
            self.incidental,
            renamed,
            self.depth,
            self.owner != "builtins",
            length,
            self.id,
        )


def read_pydoc(packages: Sequence[str] | None = None) -> Iterator[Document]:
    """Yield documents on modules, classes, functions, methods and properties, in order of id.

    Each object with a docstring is one document: the id is the shortest qualified name under which
    it can be imported, the title the signature, the text the docstring. The standard library also
    gives the sections of the language reference that ``help("with")`` prints, under that id. A
    warning names each submodule of `packages` that could not be imported.

    Args:
        packages: installed packages; None for the standard library.

    Raises:
        ValueError: a package is not installed.
        RuntimeError: the walk failed; the message has the end of what it printed.
    """
    for package in packages or ():
        if not _is_installed(package):
            raise ValueError(f"package {package!r} is not installed: `pip install {package}`")
    walk = subprocess.run(
        [sys.executable, "-P", "-c", START, json.dumps(sys.path), *(packages or ())],
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        stdin=subprocess.DEVNULL,
        # So that sets in signatures always print in the same order, and docstrings are kept.
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONOPTIMIZE": ""},
    )
    if walk.returncode:
        raise RuntimeError(f"reading the documentation failed:\n{walk.stderr[-2000:]}")
    for line in walk.stderr.splitlines():
        if packages and line.startswith("skipped "):
            warnings.warn(line, stacklevel=2)
    for line in walk.stdout.splitlines():
        yield Document(**json.loads(line))


def _is_installed(package: str) -> bool:
    if not all(part.isidentifier() for part in package.split(".")):
        return False
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: __main__ may have no spec
        return False


def _walk(packages: Sequence[str]) -> list[Document]:
    roots = packages or [*sorted(sys.stdlib_module_names - EXCLUDED), "os.path"]
    modules: dict[str, ModuleType] = {}
    for root in roots:
        modules.update(_modules(root))
    if missing := set(packages) - modules.keys():
        raise SystemExit(f"could not import {', '.join(sorted(missing))}")
    owners = {root.partition(".")[0] for root in packages} or sys.stdlib_module_names
    documents = {
        name: Document(name, f"module {name}", text, {"kind": "module", "module": name})
        for name, module in modules.items()
        if (text := _docstring(module))
    }
    places: dict[int, _Place] = {}
    for place in sorted(_exports(modules, owners), key=lambda place: place.rank):
        places.setdefault(id(_underlying(place.value)), place)
    classes = {key: place for key, place in places.items() if inspect.isclass(place.value)}
    for place in sorted(_members(classes, owners), key=lambda place: place.rank):
        places.setdefault(id(_underlying(place.value)), place)
    for place in sorted(places.values(), key=lambda place: place.rank, reverse=True):
        title = place.id if place.instance else _signature(place.id, place.value)
        if text := _text(place):
            described = {"kind": _kind(place), "module": place.module}
            documents[place.id] = Document(place.id, title, text, described)
    if not packages:
        documents.update((topic.id, topic) for topic in _topics())
    return [document for _, document in sorted(documents.items())]


def _topics() -> Iterator[Document]:
    """Yield the sections of the language reference that help("with") and the like print."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    # A section with a topic of its own ("with") is not repeated in a longer one ("compound").
    for topic, page in sorted(topics.items(), key=lambda item: (len(item[1]), item[0])):
        _, *sections = HEADING.split("\n" + page) if HEADING.search(page) else ("", topic, "", page)
        for number, (heading, text) in enumerate(zip(sections[::3], sections[2::3], strict=True)):
            text = inspect.cleandoc(text)
            if text in seen or len(text.split()) < 10:
                continue
            seen.add(text)
            section = "#" + re.sub(r"\W+", "-", heading.lower()).strip("-")
            name = f"help({topic!r}){section if number else ''}"
            yield Document(name, heading, text, {"kind": "topic", "module": "pydoc_data.topics"})


def _modules(name: str) -> Iterator[tuple[str, ModuleType]]:
    """Yield the public module and all public modules below it."""
    if name.rpartition(".")[2].startswith("_"):
        return
    try:
        pydoc.safeimport(name)
    except pydoc.ErrorDuringImport as error:
        print(f"skipped {name}: {error}", file=sys.stderr)
        return
    # safeimport's result may be wrong: a package's attribute can hide a module (unittest.main).
    module = sys.modules.get(name)
    if module is None:
        return
    yield name, module
    for info in sorted(pkgutil.iter_modules(getattr(module, "__path__", ()))):
        if info.name not in ("tests", "test"):
            yield from _modules(f"{name}.{info.name}")


def _exports(modules: dict[str, ModuleType], owners: frozenset[str] | set[str]) -> Iterator[_Place]:
    for name, module in modules.items():
        listed = [item for item in getattr(module, "__all__", ()) if isinstance(item, str)]
        for attribute in sorted({*vars(module), *listed}):
            try:
                value = getattr(module, attribute)
            # __all__ is out of date, or the name is loaded on demand and a package is missing.
            except (AttributeError, ImportError):
                continue
            if inspect.ismodule(value):
                continue
            described = inspect.isclass(value) or inspect.isroutine(value)
            instance = not (described or _docstring(_underlying(value)))
            value = type(value) if instance else value
            home = _home(value)
            private = "._" in f".{home}" and home.partition(".")[0] in owners
            below = not listed and home.startswith(f"{name}.")
            at_home = home == module.__name__ or name == "builtins"
            named = attribute in listed or not attribute.startswith("_")
            if named and (at_home or not instance and (attribute in listed or private or below)):
                incidental = bool(listed) and attribute not in listed
                yield _Place(name, attribute, value, name, None, 0, incidental, instance)


def _members(classes: dict[int, _Place], owners: frozenset[str] | set[str]) -> Iterator[_Place]:
    """Yield public members of classes, including those from private base classes."""
    for place in classes.values():
        for depth, base in enumerate(place.value.__mro__):
            own = classes.get(id(base))
            hidden = own is None or own.attribute != base.__name__
            if base is not place.value and not (hidden and _home(base).split(".")[0] in owners):
                continue
            for attribute, value in sorted(vars(base).items()):
                nested = not inspect.isclass(value) or "." in value.__qualname__
                if nested and not attribute.startswith("_"):
                    yield _Place(place.id, attribute, value, place.module, place.value, depth)


def _home(value: Any) -> str:
    """Return the name of the module that says it defines the object."""
    home = getattr(value, "__module__", None)
    if home is None and isinstance(value, BuiltinMethodType):
        home = type(value.__self__).__module__
    return home if isinstance(home, str) else ""


def _underlying(value: Any) -> Any:
    """Return the object behind a value, the same one for every way in which it is reached."""
    if isinstance(value, classmethod | staticmethod | MethodType):
        return value.__func__
    if isinstance(value, BuiltinMethodType) and not inspect.ismodule(value.__self__):
        owner = value.__self__ if inspect.isclass(value.__self__) else type(value.__self__)
        return inspect.getattr_static(owner, value.__name__, value)
    return value


def _kind(place: _Place) -> str:
    value = _underlying(place.value)
    if place.instance:
        return "constant"
    if inspect.isclass(value):
        return "class"
    if place.owner == place.module:
        return "function" if callable(value) else "constant"
    return "method" if callable(value) else "property"


def _signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(_underlying(value))
    # There is none: builtins, properties, and defaults that inspect cannot evaluate (curses).
    except (ValueError, TypeError, AttributeError, NameError):
        return name
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_default(parameter.default))
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    return name + str(inspect.Signature(parameters))


class _Shown(NamedTuple):
    """What to print as a default."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _default(value: Any) -> Any:
    """Return a stand-in for a default that prints the same on every machine."""
    if value is inspect.Parameter.empty:
        return value
    if isinstance(value, enum.Enum):
        return _Shown(f"{type(value).__name__}.{value.name}")
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value if len(repr(value)) <= 40 else _Shown("...")
    if inspect.isclass(value) or inspect.isroutine(value):
        return _Shown(value.__name__)
    return value if type(value) in (tuple, list, dict) and not value else _Shown("...")


def _text(place: _Place) -> str:
    """Return the docstring, else the constructor's, else an inherited one, else a comment."""
    value = _underlying(place.value)
    text = _docstring(value)
    if text or place.instance or place.module.startswith("encodings."):
        return text
    if inspect.isclass(value):
        sources = [vars(value).get("__init__"), vars(value).get("__new__"), *value.__mro__[1:]]
        # Docstrings of GENERIC modules do not describe the classes derived from theirs.
        sources = [source for source in sources if _home(source) not in GENERIC]
    elif place.cls is not None:
        bases = place.cls.__mro__[place.depth + 1 :]
        sources = [_underlying(vars(base).get(place.attribute)) for base in bases]
    else:
        sources = []
    return next((text for source in sources if (text := _docstring(source))), _comment(value))


def _comment(value: Any) -> str:
    """Return the comment before a function, unless it is a heading or a note to maintainers."""
    comment = (inspect.getcomments(value) if inspect.isfunction(value) else None) or ""
    text = re.sub(r"^#+ ?", "", comment, flags=re.MULTILINE).strip()
    described = len(text.split()) >= 4 and re.match(r"(?!Internal|If|this|the|not)[A-Za-z]", text)
    return text if described else ""


def _docstring(value: Any) -> str:
    """Return the docstring of the object itself, or "" if it has none that says anything."""
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str) or len(text.split()) < 2 or WORTHLESS.match(text.strip()):
        return ""
    # An instance without one of its own shows the docstring of its class.
    if not (inspect.isclass(value) or inspect.ismodule(value)) and text == type(value).__doc__:
        return ""
    return ADDRESS.sub("", inspect.cleandoc(text))


def main() -> None:
    """Print the documents of the packages in argv, or of the standard library, as JSON lines."""
    warnings.simplefilter("ignore")
    # Imported modules may print: that goes to stderr, so that stdout holds only the documents.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        for document in _walk(sys.argv[1:]):
            record = {
                "id": document.id,
                "title": document.title,
                "text": document.text,
                "metadata": dict(document.metadata),
            }
            out.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
