#!/usr/bin/env bash
# Download the wheels that a GPU machine without network lacks beside torch, transformers and numpy.
#
#     bash benchmarks/gpu/wheels.sh [FOLDER] [PYTHON_VERSION]     # default: build/wheels 3.12
#
# The versions are those of constraints.txt. Fails where they and the source tree do not fit in 64 MiB together.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-build/wheels}
version=${2:-3.12}
most_bytes=$((64 * 1024 * 1024))

packages=(
  pydantic pydantic_core annotated-types typing_extensions typing-inspection # settings
  llguidance                                                                 # guided answers
  soundfile cffi pycparser soxr                                              # sound
  tenacity                                                                   # the model hub
  pytest pytest-timeout iniconfig pluggy packaging Pygments                  # tests
  hypothesis sortedcontainers
)
platforms=()
for minor in $(seq 39 -1 5); do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)

rm -rf "$folder"
mkdir -p "$folder"
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]}" --constraint constraints.txt --dest "$folder" "${packages[@]}"

wheel_bytes=$(cat "$folder"/*.whl | wc -c)
source_bytes=$(git ls-files -z --cached --others --exclude-standard | xargs -0 cat | wc -c)
echo "${#packages[@]} wheels for Python $version in $folder: $((wheel_bytes / 1024)) KiB, and the source tree $((source_bytes / 1024)) KiB"
if ((wheel_bytes + source_bytes > most_bytes)); then
  echo "together they are over 64 MiB" >&2
  exit 1
fi
