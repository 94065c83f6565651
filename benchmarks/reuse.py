"""How many of the calls that a default search needs are made, and why are the others not?

A call is needed whenever a node asks its model. It need not be made if the same request was asked before: in the same round, in an
earlier one (validation and test are a round each), or before the process was started. The search runs to its end, and
then goes on in the same folder with more rounds, which shows what a run that is taken up again asks anew.

    python benchmarks/reuse.py [--tasks calc recall] [--more 2] [key=value …]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from agentgraph.calls import Calls
from agentgraph.config import build_search, load
from agentgraph.model import Model
from agentgraph.request import Reply, Request
from agentgraph.run import run
from agentgraph.run_folder import RunFolder
from agentgraph.watch import Watcher

REASONS = ("made", "same round", "earlier round", "resumed run")
AIM = 0.4
"""Share of the calls that may be made."""


class Count(Watcher):
    """Counts the calls that are needed by what became of them."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self._round = 0
        self._first: dict[str, int] = {}  # round in which a request was first asked

    def phase(self, name: str, total_calls: int | None = None) -> None:
        del name, total_calls
        self._round += 1

    def asked(self, key: str, *, stored: bool) -> None:
        """Take note of a call."""
        if key not in self._first:
            self._first[key] = self._round
            reason = "resumed run" if stored else "made"
        else:
            reason = "same round" if self._first[key] == self._round else "earlier round"
        self.reasons[reason] += 1


def searched(settings: Sequence[str], folder: Path) -> tuple[Counter[str], int, int]:
    """Search, or go on; calls by reason, plans, and distinct train questions that were marked."""
    count, original = Count(), Calls.reply

    async def reply(self: Calls, request: Request, model: Model, within: float | None = None) -> Reply | None:
        count.asked(request.key, stored=request.key in self.store)
        return await original(self, request, model, within)

    Calls.reply = reply
    try:
        result = run(build_search(load("search", list(settings))), folder=RunFolder(folder), watcher=count)
    finally:
        Calls.reply = original
    if count.reasons["made"] != result.summary["calls_made"]:
        raise RuntimeError(f"{count.reasons} but {result.summary['calls_made']} made")
    # A node that several plans share is run once for all of them: its calls were not even looked up a second time.
    count.reasons["same round"] += result.summary["calls_asked"] - count.reasons.total()
    trials = result.archive.trials
    return count.reasons, len(trials), len({question for trial in trials for question in trial.marks})


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["calc", "recall"])
    parser.add_argument("--more", type=int, default=2, help="rounds that the search goes on for")
    parser.add_argument("settings", nargs="*", help="of the search, as on the command line")
    given = parser.parse_args()
    head = "".join(f"{reason:>16}" for reason in REASONS)
    print(f"{'task':<22}{'plans':>6}{'questions':>10}{'needed':>9}{head}   (aim: at most {AIM:.0%} made)")
    for task in given.tasks:
        settings = [f"task={task}", *given.settings]
        rounds = load("search", settings).rounds
        with tempfile.TemporaryDirectory() as folder:
            for name, count in (("", rounds), (" goes on", rounds + given.more)):
                reasons, plans, questions = searched([*settings, f"rounds={count}"], Path(folder))
                needed = reasons.total()
                shares = "".join(f"{reasons[r]:>9,} {reasons[r] / needed:>5.1%}" for r in REASONS)
                print(f"{task + name:<22}{plans:>6}{questions:>10}{needed:>9,}{shares}", flush=True)


if __name__ == "__main__":
    main()
