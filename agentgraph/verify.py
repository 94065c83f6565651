"""Repeats a finished search from its reply store alone, with no model, and compares archive and plan."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agentgraph.backends.base import Backend
from agentgraph.errors import BackendRefused, RunError
from agentgraph.request import Reply, Request
from agentgraph.run import run
from agentgraph.run_folder import RunFolder
from agentgraph.setup import Setup
from agentgraph.watch import Watcher

__all__ = ["Verified", "verify"]


@dataclass(frozen=True)
class Verified:
    """What came of repeating a search.

    Parameters
    ----------
    equal
        Whether each file came out the same, byte for byte, by name.
    calls
        Calls needed; all were answered by the store.
    trials
        Lines of the archive.
    """

    equal: Mapping[str, bool]
    calls: int
    trials: int


class _Stored(Backend):
    """Stands in for a backend whose replies are all stored."""

    def __init__(self, inner: Backend, folder: Path) -> None:
        super().__init__(inner.name, limit=inner.limit, has_logprobs=inner.has_logprobs)
        self._inner, self._folder = inner, folder

    async def reply(self, request: Request) -> Reply:
        raise BackendRefused(
            f"the search needs a call of {request.model!r} that {self._folder} does not hold: the run is not finished, its "
            "settings or the version of agentgraph changed, or replies were lost"
        )

    async def served(self) -> tuple[str, ...]:
        return ()

    def fingerprint(self, model: str) -> str:
        return self._inner.fingerprint(model)

    def samples(self, model: str) -> int | None:
        return self._inner.samples(model)


def verify(setup: Setup, folder: RunFolder, watcher: Watcher | None = None) -> Verified:
    """Repeat a finished search in a temporary folder and compare.

    Parameters
    ----------
    setup
        The search's own settings.
    folder
        Where it left its files; they are not touched.

    Raises
    ------
    RunError
        If the search is not finished.
    BackendRefused
        If a call is needed that the store does not hold.
    """
    if not folder.best.exists():
        raise RunError(f"{folder.path} has no best.json: the search is not finished; go on with run={folder.path}")
    stored = {name: _Stored(backend, folder.replies) for name, backend in setup.backends.items()}
    with tempfile.TemporaryDirectory() as temporary:
        again = RunFolder(Path(temporary))
        shutil.copyfile(folder.replies, again.replies)
        result = run(replace(setup, backends=stored), folder=again, watcher=watcher)
        equal = {
            mine.name: mine.read_bytes() == its.read_bytes()
            for mine, its in ((folder.trials, again.trials), (folder.best, again.best))
        }
        trials = again.trials.read_bytes().count(b"\n")
    return Verified(equal, result.summary["calls_asked"], trials)
