"""A program that takes the command line of ``vllm serve`` and fails as told by ``--fake``; see `main`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from servers.loopback import Loopback, chat, error

IDLE = "import time; time.sleep(1000)"


def main() -> None:
    """Serve, or fail.

    ``--fake`` is 'dies' (at start, with words), 'other' (serves another name), 'hangs' (takes connections and never answers),
    'deaf' (ignores SIGTERM), 'late' (healthy after half a second), or 'mortal' (ends at the first chat). ``--notes FOLDER`` is
    where it writes what it was told and its process numbers: its own, and that of a child that sleeps.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    for flag in ("model", "served-model-name", "host", "notes"):
        parser.add_argument(f"--{flag}")
    parser.add_argument("--port", type=int)
    parser.add_argument("--fake", default="")
    told, _ = parser.parse_known_args()
    child = subprocess.Popen([sys.executable, "-c", IDLE])  # an engine, as it were
    if told.notes:
        note(told, child.pid)
    before(told)
    serve(told)


def note(told: argparse.Namespace, child: int) -> None:
    """Write down what it was told."""
    noted = {
        "pids": [os.getpid(), child],
        "argv": sys.argv[1:],
        "port": told.port,
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "key": os.environ["VLLM_API_KEY"],
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "began": time.monotonic(),
    }
    path = Path(told.notes) / f"{told.served_model_name}-{os.getpid()}.json"
    path.with_suffix(".new").write_text(json.dumps(noted))
    path.with_suffix(".new").rename(path)


def before(told: argparse.Namespace) -> None:
    """What happens, or goes wrong, before it listens."""
    if told.fake == "dies":
        sys.exit("ValueError: No available memory for the cache blocks")
    if told.fake == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if told.fake == "late":
        time.sleep(0.5)
    try:
        with socket.create_server((told.host, told.port)):
            if told.fake == "hangs":
                time.sleep(1000)
    except OSError as reason:
        sys.exit(str(reason))


def serve(told: argparse.Namespace) -> None:
    """Answer until it is ended."""
    name = "another" if told.fake == "other" else told.served_model_name

    def script(body, _number):
        if told.fake == "mortal":
            sys.stderr.write("EngineDeadError\n")
            os._exit(3)
        if body["model"] != name:
            return error(404, f"The model `{body['model']}` does not exist.")
        text = body["messages"][-1]["content"]
        return chat(f"{name}: {text}", usage={"prompt_tokens": 1 + len(text), "completion_tokens": 2})

    with Loopback(script, (name,), port=told.port):
        signal.pause()


if __name__ == "__main__":
    main()
