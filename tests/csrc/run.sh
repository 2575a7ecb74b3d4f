#!/bin/sh
# Builds the core and its test without Python, and runs it: plainly, or under sanitizers.
# usage: sh tests/csrc/run.sh default|asan|tsan ...
set -eu
cd "$(dirname "$0")/../.."
for preset in "$@"; do
    cmake --preset "$preset" >/dev/null
    cmake --build --preset "$preset"
    ctest --preset "$preset"
done
