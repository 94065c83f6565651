#!/usr/bin/env bash
# Installs Ray and this package into the virtual environment VENV, which is made if it is not there, and runs the tests in it
# that need Ray: a cluster of two nodes on this machine.
#
#     .ci/ray.sh VENV
#
# Not part of .ci/run: Ray is 285 MB and a dozen processes, and what is ours of it is tested there on a stand-in. Two minutes.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: .ci/ray.sh VENV" >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$(realpath -m "$1")
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet torch==2.13.0 -e "$root[dev,ray]"
cd "$root"
OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest -m ray tests/test_ray.py
