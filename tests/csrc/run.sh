#!/bin/sh
# Builds the core and its test without Python and runs it: plainly, under sanitizers, or for ARM, where that compiler
# is there, and run where qemu-aarch64 is.
# usage: sh tests/csrc/run.sh default|asan|tsan|neon ...
set -eu
cd "$(dirname "$0")/../.."
for preset in "$@"; do
    if [ "$preset" = neon ] && ! command -v aarch64-linux-gnu-g++ >/dev/null; then
        echo "neon: no aarch64-linux-gnu-g++ here, not compiled"
        continue
    fi
    cmake --preset "$preset" >/dev/null
    cmake --build --preset "$preset"
    if [ "$preset" != neon ]; then
        ctest --preset "$preset"
    elif command -v qemu-aarch64 >/dev/null; then
        qemu-aarch64 build/neon/core_test
    fi
done
