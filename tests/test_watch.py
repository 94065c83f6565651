"""Watchers: what they show, how often, and that nothing they are told can break the screen or the search."""

import io
import re
import threading
import time

import pytest

from agentgraph.watch import LiveDisplay, PlainLines, Progress, RoundSummary, Watcher, choose

ROUND = RoundSummary(
    round=3,
    rounds=10,
    best_plan="ab12",
    best_score=0.8421,
    low=0.78,
    high=0.8904,
    price="3 of 4 units",
    plans=24,
    calls_asked=1820,
    calls_made=637,
)
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def plain(clock):
    stream = io.StringIO()
    watcher = PlainLines(stream, clock)
    watcher.start("search calc", 10)
    return watcher, stream


def live(clock, width=60, **options):
    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width, height=30, **options)
    return LiveDisplay(console, clock), screen


def shown(display, width):
    """The panel as lines of plain text."""
    from rich.console import Console

    screen = io.StringIO()
    Console(file=screen, width=width).print(display.panel())
    return screen.getvalue().splitlines()


# ---- plain lines


def test_a_search_in_plain_lines(plain, clock):
    watcher, stream = plain
    watcher.phase("probe", 120)
    clock.now += 61
    watcher.phase("round 3/10")
    watcher.note("a fuser above two large assistants helps")
    watcher.round_done(ROUND)
    watcher.stop()
    watcher.stop()
    assert stream.getvalue().splitlines() == [
        "search calc, 10 rounds",
        "probe: 120 calls",
        "round 3/10",
        "note: a fuser above two large assistants helps",
        "round 3/10 done: best 0.842 [0.780, 0.890] at 3 of 4 units, 24 plans tried, "
        "637 of 1,820 calls made (65% saved), 0:01:01",
    ]


def test_a_long_phase_prints_every_ten_seconds(plain, clock):
    watcher, stream = plain
    watcher.phase("validation", 2000)
    for call in range(2001):
        clock.now = 100 + call * 0.0125  # 25 seconds
        watcher.progress(Progress(call, call // 2, 30 * call, call // 10, 200, failures=call // 1500))
    lines = stream.getvalue().splitlines()[2:]
    assert lines == [
        "validation: 80 of 200 questions, 400 of 800 calls made (50% saved), 0:00:10",
        "validation: 160 of 200 questions, 800 of 1,600 calls made (50% saved), 1 failure, 0:00:20",
    ]


def test_no_plan_yet(plain):
    watcher, stream = plain
    watcher.round_done(RoundSummary(1, 1, "", float("nan"), 0, 1, "", 1, 0, 0))
    assert "done: no plan yet, 1 plan tried, 0 of 0 calls made, 0:00:00" in stream.getvalue()


def test_what_models_write_cannot_control_the_terminal(plain):
    watcher, stream = plain
    watcher.note("two\nlines, \x1b[2J cleared\r \u202e reversed")
    assert not CONTROL.search(stream.getvalue())
    assert "note: two lines,  [2J cleared    reversed\n" in stream.getvalue()


def test_stream_that_cannot_write_every_character(clock):
    raw = io.BytesIO()
    watcher = PlainLines(io.TextIOWrapper(raw, encoding="ascii"), clock)
    watcher.note("größer 数")
    assert raw.getvalue() == b"note: gr\\xf6\\xdfer \\u6570\n"


def test_reader_that_went_away_does_not_stop_the_search(clock):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(text)

    watcher = PlainLines(Closed(), clock)
    watcher.note("one")
    watcher.note("two")


# ---- live display


@pytest.mark.parametrize("width", [40, 60, 200])
def test_panel(width, clock):
    display, screen = live(clock, width)
    display.start("search calc", 10)
    display.phase("validation: 24 plans on 200 questions", 500)
    display.progress(Progress(1000, 400, 1000, 48, 200, 2))
    clock.now += 5
    display.progress(Progress(1820, 637, 6000, 96, 200, 2))
    clock.now += 25
    display.round_done(ROUND)
    display.note("a fuser above [bold]two[/bold] large assistants \x1b[2J helps\nmore than a vote of eight small ones")
    lines = shown(display, width)
    display.stop()
    assert max(map(len, lines)) <= min(width, 100)
    assert len(lines) == 10
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "…" in next(line for line in lines if line.startswith("│ note")) or width > 100
    for expected in ("search calc, 10 rounds", "validation: 24 plans", "best  0.842 [0.780, 0.890]", "0:00:30"):
        assert expected in text
    if width >= 60:
        for expected in (
            "96 of 200 questions",
            "at 3 of 4 units",
            "637 of 1,820 calls made (65% saved)",
            "24 plans in 3 rounds",
            "1,200 tokens/s, 2 failures",
            "about 0:03:30 left",
            "a fuser above [bold]two[/bold]",
        ):
            assert expected in text
    assert screen.getvalue()


def test_panel_before_anything_happened(clock):
    display, _ = live(clock)
    text = "\n".join(shown(display, 60))
    assert "no plan yet" in text
    assert "0 of 0 calls made" in text
    assert "left" not in text


def test_phase_without_questions_counts_its_own_calls(clock):
    display, _ = live(clock)
    display.progress(Progress(calls_asked=70))
    display.phase("probe", 40)
    display.progress(Progress(calls_asked=80))
    assert "10 of 40 calls" in "\n".join(shown(display, 60))


def test_time_left_counts_down_and_not_below_zero(clock):
    display, _ = live(clock)
    clock.now += 30
    display.round_done(ROUND)
    clock.now += 1000
    assert "about 0:00:00 left" in "\n".join(shown(display, 60))


def test_final_state_stays_on_screen(clock):
    threads = set(threading.enumerate())
    display, screen = live(clock)
    display.start("search calc", 10)
    display.phase("round 3/10")
    display.note("something")
    display.round_done(ROUND)
    display.progress(Progress(1820, 637, 6000))
    display.stop()
    display.stop()
    last = screen.getvalue()[screen.getvalue().rindex("╭") :]
    assert "0.842 [0.780, 0.890] at 3 of 4 units" in last
    assert "24 plans in 3 rounds" in last
    assert "something" not in last
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - threads  # others, of earlier tests, may end meanwhile


def test_no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    display = choose(stream)
    assert isinstance(display, LiveDisplay)
    display.start("search calc", 10)
    display.round_done(ROUND)
    display.stop()
    assert not re.search(r"\x1b\[[\d;]*3\dm", stream.getvalue())


# ---- choosing


def test_choose(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert isinstance(choose(Terminal()), LiveDisplay)
    assert isinstance(choose(io.StringIO()), PlainLines)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose(Terminal()), PlainLines)


def test_base_shows_nothing(capsys):
    watcher = Watcher()
    watcher.start("search", 1)
    watcher.phase("probe", None)
    watcher.progress(Progress())
    watcher.note("x")
    watcher.round_done(ROUND)
    watcher.stop()
    assert capsys.readouterr() == ("", "")


def test_progress_is_cheap(plain, clock):
    watchers = [plain[0], live(clock)[0]]
    progress = Progress(1, 1, 1, 1, 1)
    began = time.perf_counter()
    for watcher in watchers:
        for _ in range(20_000):
            watcher.progress(progress)
    assert time.perf_counter() - began < 1
