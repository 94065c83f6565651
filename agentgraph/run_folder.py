"""The folder of a run: where each file is, and what is saved at the end of each round."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgraph.errors import RunError
from agentgraph.store import write_atomically

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and its saved state.

    Parameters
    ----------
    path
        The folder; made if it is not there.
    """

    path: Path

    def __post_init__(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run folder {self.path}: {error.strerror}; choose another one") from error

    @property
    def config(self) -> Path:
        """The run's settings, as resolved."""
        return self.path / "config.yaml"

    @property
    def trials(self) -> Path:
        """The archive."""
        return self.path / "trials.jsonl"

    @property
    def replies(self) -> Path:
        """The reply store."""
        return self.path / "replies.jsonl"

    @property
    def best(self) -> Path:
        """The found plan."""
        return self.path / "best.json"

    @property
    def front(self) -> Path:
        """Plans that no other beats in accuracy and in every cost."""
        return self.path / "front.json"

    @property
    def summary(self) -> Path:
        """Scores, costs and counts of the whole run."""
        return self.path / "summary.json"

    @property
    def study(self) -> Path:
        """Optuna's journal of the same trials."""
        return self.path / "optuna.log"

    def feedback(self, round_: int) -> Path:
        """What the optimizer saw, said and changed in a round."""
        return self.path / "feedback" / f"round_{round_:03d}.txt"

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    def remove_unused(self) -> None:
        """Remove the folder where nothing was asked yet: what could not begin leaves nothing behind."""
        made = {self.config, self.replies, self.trials}
        there = set(self.path.iterdir())
        if there <= made and not any(path.stat().st_size for path in there - {self.config}):
            for path in there:
                path.unlink()
            self.path.rmdir()
            with suppress(OSError):  # other runs of the day
                self.path.parent.rmdir()

    def save_state(
        self, *, rounds_done: int, archive_size: int, optimizer: dict[str, Any], extra: dict[str, Any]
    ) -> None:
        """Save what the next round needs; replaces the last state as a whole."""
        state = {"rounds_done": rounds_done, "archive_size": archive_size, "optimizer": optimizer, **extra}
        self.write_json(self._state, state)

    def load_state(self) -> dict[str, Any] | None:
        """The last state saved, or ``None`` if no round has ended.

        Raises
        ------
        RunError
            If it cannot be read.
        """
        if not self._state.exists():
            return None
        try:
            state: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self._state}: {error}; start a new run") from error
        return state

    def write_json(self, path: Path, content: object) -> None:
        """Write JSON as a whole or not at all."""
        write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    def write_feedback(self, round_: int, text: str) -> None:
        """Write a round's readable account."""
        path = self.feedback(round_)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
