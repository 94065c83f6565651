"""What a person watches during a search. It hangs on events: the loop calls a watcher and never reads it.

Times come from the monotonic clock, are only shown, and enter nothing that is stored.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["LiveDisplay", "PlainLines", "Progress", "RoundSummary", "Watcher", "choose"]

QUIET: Final = 10.0  # seconds between plain lines within a phase
REFRESH: Final = 5  # pictures of the live display per second
WINDOW: Final = 10.0  # seconds over which tokens per second are taken
MAX_WIDTH: Final = 100


@dataclass(frozen=True)
class Progress:
    """Where a phase stands.

    Parameters
    ----------
    calls_asked, calls_made
        Calls that plans asked for, and those that reached a model because the store had no reply; since the start.
    tokens
        Generated and prompt tokens of the calls made, since the start.
    done_questions, total_questions
        Of this phase, over all its plans; a total of 0 is not known.
    failures
        Calls that failed after all retries, since the start.
    """

    calls_asked: int = 0
    calls_made: int = 0
    tokens: int = 0
    done_questions: int = 0
    total_questions: int = 0
    failures: int = 0


@dataclass(frozen=True)
class RoundSummary:
    """Where the search stands after a round.

    Parameters
    ----------
    round, rounds
        This round, from 1, and how many there will be.
    best_plan
        Id of the best plan so far; empty if no plan has been marked yet.
    best_score, low, high
        Its accuracy in the search, with its interval.
    price
        Its price and the budget, such as '7.2 of 8 units'.
    plans
        Different plans tried so far.
    calls_asked, calls_made
        As in `Progress`.
    """

    round: int
    rounds: int
    best_plan: str
    best_score: float
    low: float
    high: float
    price: str
    plans: int
    calls_asked: int
    calls_made: int


class Watcher:
    """Sees what happens and shows nothing; members show it. No method raises for what it is told."""

    def start(self, title: str, rounds: int) -> None:
        """Begin; ``title`` says what is searched."""

    def phase(self, name: str, total_calls: int | None = None) -> None:
        """Begin a phase: 'probe', 'round 3/10', 'validation', 'test'; with its number of calls where that is known."""

    def progress(self, progress: Progress) -> None:
        """Take note of where the phase stands; may be called as often as one likes."""

    def note(self, text: str) -> None:
        """Show one line worth reading."""

    def round_done(self, summary: RoundSummary) -> None:
        """End of a round."""

    def stop(self) -> None:
        """End, also after an error; may be called twice."""


class PlainLines(Watcher):
    """A line for each phase and round, at most one more every ten seconds; no control characters.

    Parameters
    ----------
    stream
        Where to write. Once it is closed on the other side (``| head``) nothing more is written.
    clock
        Seconds, for tests.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = monotonic) -> None:
        self._stream: TextIO | None = stream
        self._clock = clock
        self._began = self._written = clock()
        self._phase = ""
        self._total_calls: int | None = None

    def start(self, title: str, rounds: int) -> None:
        self._began = self._clock()
        self._write(f"{title}, {_count(rounds, 'round')}")

    def phase(self, name: str, total_calls: int | None = None) -> None:
        self._phase, self._total_calls = name, total_calls
        self._write(name if total_calls is None else f"{name}: {_count(total_calls, 'call')}")

    def progress(self, progress: Progress) -> None:
        if self._clock() - self._written >= QUIET:
            parts = (_questions(progress), _calls(progress), _failures(progress), _time(self._clock() - self._began))
            self._write(f"{self._phase}: " + ", ".join(filter(None, parts)))

    def note(self, text: str) -> None:
        self._write(f"note: {text}")

    def round_done(self, summary: RoundSummary) -> None:
        parts = (
            _best(summary),
            f"{_count(summary.plans, 'plan')} tried",
            _calls(summary),
            _time(self._clock() - self._began),
        )
        self._write(f"round {summary.round}/{summary.rounds} done: " + ", ".join(filter(None, parts)))

    def stop(self) -> None:
        self._phase = ""

    def _write(self, text: str) -> None:
        self._written = self._clock()
        if self._stream is None:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(_one_line(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._stream.flush()
        except OSError:  # a reader that went away must not stop a search
            self._stream = None


class LiveDisplay(Watcher):
    """A panel that is drawn again a few times a second, and stays in a short form at the end.

    Parameters
    ----------
    console
        A rich console on a terminal.
    clock
        Seconds, for tests.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = monotonic) -> None:
        from rich.live import Live

        self._console = console
        self._clock = clock
        self._title = ""
        self._phase = ""
        self._total_calls: int | None = None
        self._calls_before = 0
        self._progress = Progress()
        self._summary: RoundSummary | None = None
        self._note = ""
        self._speed: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._pace = _Pace(clock())
        self._stopped = False
        self._live = Live(console=console, get_renderable=self.panel, refresh_per_second=REFRESH)

    def start(self, title: str, rounds: int) -> None:
        self._title = f"{title}, {_count(rounds, 'round')}"
        self._pace = _Pace(self._clock())
        self._stopped = False
        self._live.start(refresh=True)

    def phase(self, name: str, total_calls: int | None = None) -> None:
        self._phase, self._total_calls = name, total_calls
        self._calls_before = self._progress.calls_asked

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        now = self._clock()
        if now - self._speed[-1][0] >= 1 / REFRESH:
            self._speed.append((now, progress.tokens))
            while now - self._speed[0][0] > WINDOW:
                self._speed.popleft()

    def note(self, text: str) -> None:
        self._note = text

    def round_done(self, summary: RoundSummary) -> None:
        self._summary = summary
        self._pace.round_done(summary, self._clock())

    def stop(self) -> None:
        self._stopped = True
        self._live.stop()

    def panel(self) -> RenderableType:
        """What is on the screen now."""
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1))
        grid.add_column(style="dim", no_wrap=True, min_width=5)
        grid.add_column()  # rich narrows columns that may wrap first; the texts in it do not wrap
        for name, shown in self._rows():
            text = Text(_one_line(shown), no_wrap=True, overflow="ellipsis") if isinstance(shown, str) else shown
            grid.add_row(name, text)
        width = min(self._console.width, MAX_WIDTH)
        return Panel(grid, title=Text(_one_line(self._title)), title_align="left", width=width, border_style="cyan")

    def _rows(self) -> list[tuple[str, RenderableType | str]]:
        summary, progress = self._summary, self._progress
        elapsed = self._pace.elapsed(self._clock())
        best = "no plan yet" if summary is None else _best(summary)
        tried = "" if summary is None else f"{_count(summary.plans, 'plan')} in {_count(summary.round, 'round')}"
        rows: list[tuple[str, RenderableType | str]] = [
            ("best", best.removeprefix("best ")),
            ("calls", _calls(progress)),
        ]
        if self._stopped:
            return [*rows, ("tried", tried), ("time", _time(elapsed))]
        left = self._pace.left(self._clock())
        speed = f"{self._tokens_per_second():,.0f} tokens/s"
        return [
            ("now", self._phase),
            ("done", self._bar()),
            *rows,
            ("tried", tried or "no plan yet"),
            ("speed", ", ".join(filter(None, (speed, _failures(progress))))),
            ("time", _time(elapsed) + ("" if left is None else f", about {_time(left)} left")),
            ("note", self._note),
        ]

    def _bar(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        progress = self._progress
        done, total = progress.done_questions, progress.total_questions
        if total <= 0:
            done, total = progress.calls_asked - self._calls_before, self._total_calls or 0
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=16)
        grid.add_column(no_wrap=True)
        text = _questions(progress) or (f"{min(done, total):,} of {total:,} calls" if total else "")
        grid.add_row(ProgressBar(total=max(total, 1), completed=min(done, total), width=16), text)
        return grid

    def _tokens_per_second(self) -> float:
        (before, few), (after, many) = self._speed[0], self._speed[-1]
        return max(0, many - few) / (after - before) if after > before else 0.0


class _Pace:
    """Elapsed time, and what is left by the mean of the rounds done."""

    def __init__(self, began: float) -> None:
        self._began = self._last = began
        self._done = self._ahead = 0

    def round_done(self, summary: RoundSummary, now: float) -> None:
        self._done += 1
        self._ahead = summary.rounds - summary.round
        self._last = now

    def elapsed(self, now: float) -> float:
        return now - self._began

    def left(self, now: float) -> float | None:
        if not self._done:
            return None
        return max(0.0, (self._last - self._began) / self._done * self._ahead - (now - self._last))


def choose(stream: TextIO) -> Watcher:
    """A live display for a terminal, else plain lines; without colour where NO_COLOR is set."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return PlainLines(stream)
    from rich.console import Console

    return LiveDisplay(Console(file=stream, no_color=bool(os.environ.get("NO_COLOR"))))


def _best(summary: RoundSummary) -> str:
    if not summary.best_plan:
        return "no plan yet"
    return f"best {summary.best_score:.3f} [{summary.low:.3f}, {summary.high:.3f}] at {summary.price}"


def _questions(progress: Progress) -> str:
    total = progress.total_questions
    return f"{progress.done_questions:,} of {total:,} questions" if total > 0 else ""


def _calls(counts: Progress | RoundSummary) -> str:
    asked, made = counts.calls_asked, counts.calls_made
    saved = f" ({1 - made / asked:.0%} saved)" if asked > 0 else ""
    return f"{made:,} of {asked:,} calls made{saved}"


def _failures(progress: Progress) -> str:
    return _count(progress.failures, "failure") if progress.failures else ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
