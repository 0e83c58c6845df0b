#!/usr/bin/env bash
# Run everything that is to be run on a GPU; README.md beside this file says what. No network is needed.
#
#     bash benchmarks/gpu/run.sh --output FOLDER [--minutes 9] [--only PART,PART] [--rehearse]
#
# Wheels that benchmarks/gpu/wheels.sh has put into build/wheels are installed first, into a folder of their own.
# PYTHON and WHEELS name another interpreter and another folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
wheels=${WHEELS:-build/wheels}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

if compgen -G "$wheels/*.whl" >/dev/null; then
  # A failure is named by the part `environment`, and the others still say what they can.
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --target "$site" "$wheels"/*.whl || echo "the wheels in $wheels could not be installed" >&2
else
  echo "no wheels in $wheels: what is installed has to do" >&2
fi
export PYTHONPATH="$site:$PWD:$PWD/pipeline${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m benchmarks.gpu "$@"
