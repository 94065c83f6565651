"""Kill a search with SIGKILL at random moments, go on each time: is the archive the same, and what was asked again?

Every call that reaches a backend is logged with its key by the searching process. After each kill, the keys that the
reply store holds are noted: none of them may ever be asked again. At the end ``trials.jsonl`` must equal that of a search
that was left alone, byte for byte.

    python benchmarks/resume.py [--kills 20] [--task recall] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agentgraph.request import Reply, Request

os.environ.setdefault("OMP_NUM_THREADS", "1")


def child(folder: Path, task: str, seed: int) -> None:
    """Search in a folder, going on if it was begun; log the key of every call that is made."""
    from agentgraph.config import build_search, load
    from agentgraph.run import run
    from agentgraph.run_folder import RunFolder

    setup = build_search(load("search", [f"task={task}", f"seed={seed}", "rounds=8"]))
    log = os.open(folder / "asked.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for backend in setup.backends.values():
        original = backend.reply

        async def logged(request: Request, original: Callable[[Request], Awaitable[Reply]] = original) -> Reply:
            os.write(log, f"{request.key}\n".encode())
            return await original(request)

        backend.reply = logged
    run(setup, folder=RunFolder(folder))


def start(folder: Path, task: str, seed: int, hash_seed: int) -> subprocess.Popen[bytes]:
    """The child in a process of its own."""
    command = [sys.executable, __file__, "--child", str(folder), "--task", task, "--seed", str(seed)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)})


def stored(folder: Path) -> set[str]:
    """Keys of the replies that the store acknowledged: whole lines only."""
    path = folder / "replies.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return {json.loads(line)["key"] for line in lines if line.endswith(b"\n")}


def main() -> None:
    """Run both searches and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--task", default="recall")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.task, arguments.seed)
        return
    with tempfile.TemporaryDirectory() as temporary:
        alone, killed = Path(temporary, "alone"), Path(temporary, "killed")
        alone.mkdir()
        killed.mkdir()
        began = time.monotonic()
        if start(alone, arguments.task, arguments.seed, 1).wait() != 0:
            sys.exit("the search that was left alone failed")
        whole = time.monotonic() - began
        rng, again, broken = random.Random(arguments.seed), 0, 0
        kills, read = 0, 0
        acknowledged: set[str] = set()
        asked: set[str] = set()
        while True:
            process = start(killed, arguments.task, arguments.seed, kills + 2)
            last = kills >= arguments.kills
            try:
                process.wait(timeout=None if last else rng.uniform(1.0, 0.5 * whole))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            log = killed / "asked.log"
            lines = log.read_text().splitlines() if log.exists() else []
            new, read = lines[read:], len(lines)
            again += sum(key in asked for key in new)
            broken += sum(key in acknowledged for key in new)
            asked.update(new)
            acknowledged = stored(killed)
            if process.returncode == 0:
                break
            kills += 1
        same = (alone / "trials.jsonl").read_bytes() == (killed / "trials.jsonl").read_bytes()
    print(f"kills {kills}, calls {len(asked):,}, archive equal byte for byte: {same}")
    print(
        f"asked again: {again} ({again / max(1, kills):.1f} for each kill: what was in flight), stored and asked again: {broken}"
    )
    if not same or broken:
        sys.exit(1)


if __name__ == "__main__":
    main()
