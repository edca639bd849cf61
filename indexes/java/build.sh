#!/usr/bin/env bash
# Compile the classes beside this script into lsr-lucene.jar: build.sh JDK_HOME (21 or newer) ANSERINI_FATJAR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
classes=$(mktemp -d)
trap 'rm -rf "$classes"' EXIT
"$1/bin/javac" --release 21 -cp "$2" -d "$classes" "$here"/*.java
# By this the tests tell whether the jar is that of the sources.
(cd "$here" && cat *.java | sha256sum | cut -d" " -f1) >"$classes/lsr/lucene/sources.sha256"
"$1/bin/jar" --create --date=2026-01-01T00:00:00Z --no-manifest --file "$here/../lsr-lucene.jar" -C "$classes" lsr
