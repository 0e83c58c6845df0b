#!/usr/bin/env bash
# The tests marked `gpu`, one line per test; the log and the exit status stay in OUTPUT.
#   benchmarks/gpu/run_tests.sh [OUTPUT]
set -euo pipefail
output="${1:-benchmarks/results/gpu}"
marked="${MARKED:-gpu}"
mkdir -p "$output"
cd "$(dirname "$0")/../.."
python -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")' \
  | tee "$output/tests.log"
python -m pytest -v -m "$marked" ${TESTS:-tests/engine tests/models} 2>&1 | tee -a "$output/tests.log"
