#!/bin/sh
# On a machine with an NVIDIA GPU and nvcc: builds the package with pymetaner._cuda, runs the tests of the operations,
# the same under compute-sanitizer, times both kernels, and tests and times the engine.
# usage: PYTHON=python3 TORCH=torch sh tests/packaging/try_gpu.sh
set -eu
cd "$(dirname "$0")/../.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/env"
export PATH="$place/env/bin:$PATH"
pip --disable-pip-version-check install --quiet --prefer-binary "${TORCH:-torch}" '.[test]' \
    --config-settings=cmake.define.PYMETANER_CUDA=ON
python -c 'import torch; assert torch.cuda.is_available(), "this torch sees no GPU"; print(torch.cuda.get_device_name())'
pytest -q tests/ops/test_cuda.py
for tool in memcheck racecheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 --target-processes all \
        python -m pytest -q -p no:cacheprovider tests/ops/test_cuda.py \
        -k "clustered-7-700 or normal-770-700 or 70000-100-70 or not_finite or the_loss_on_a_gpu or stream"
done
python -m benchmarks.gpu --phases
pytest -q tests/engine -k gpu
python -m benchmarks engine
