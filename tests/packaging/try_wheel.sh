#!/bin/sh
# A wheel in an empty environment with no compiler on the path: does it install, and does it adapt a sentence?
# usage: PYTHON=python3 TORCH=torch sh try_wheel.sh WHEEL
set -eu
wheel=$(realpath "$1")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/env"
cd "$place"
(
export PATH="$place/env/bin"
pip --disable-pip-version-check install --quiet --prefer-binary "${TORCH:-torch}" "$wheel"
pymetaner info
pymetaner adapt "Marie Curie nació en Varsovia y trabajó en la Universidad de París."
python -c '
import pymetaner
from pymetaner.ops import backend
assert backend() == "native", backend()
result = pymetaner.adapt(pymetaner.default_model(), "Marie Curie nació en Varsovia.")
assert {(e.text, e.label) for e in result.entities} == {("Marie Curie", "PER"), ("Varsovia", "LOC")}, result
assert len(result.supports) == 2, result
'
)
echo "the wheel works without a compiler"
