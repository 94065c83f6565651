"""Where a task's questions come from: a file or folder, the sample that ships with the package, or a dataset of Hugging Face."""

from __future__ import annotations

import csv
import gzip
import io
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentgraph.errors import TaskError

__all__ = ["HUB", "SAMPLE", "Hub", "Row", "json_lines", "read_text", "rows", "sample_file", "with_options"]

SAMPLE, HUB = "sample", "hub"
"""Words that stand in the place of a path: the sample in the package, and Hugging Face."""

Row = Mapping[str, Any]
_SAMPLES: Final = Path(__file__).parent / "tasks" / "samples"
_KINDS: Final = (".jsonl", ".json", ".csv")  # each also with .gz


@dataclass(frozen=True)
class Hub:
    """A dataset of Hugging Face.

    Parameters
    ----------
    name
        Owner and name.
    split
        The one of its splits that is used, the official test questions.
    subset
        Its configuration, if it has several.
    """

    name: str
    split: str
    subset: str | None = None


def rows(
    path: str, *, sample: str, hub: Hub | None, revision: str | None, columns: tuple[str, ...] = ()
) -> Iterator[tuple[str, Row]]:
    """The rows of a task, each with the words that name its place in an error.

    Parameters
    ----------
    path
        'sample', 'hub', or a file or folder: .jsonl (an object a line), .json (a list of objects, or an object a line) or .csv,
        also gzipped.
    sample
        Name of the sample in the package; a task without one has 'hub' and a path only.
    hub, revision
        The dataset, if there is one, and the commit of it that is read.
    columns
        Names of the columns of a .csv without a head.

    Raises
    ------
    TaskError
        If there is nothing there, or it cannot be read.
    """
    if path == HUB:
        if hub is None:
            raise TaskError(f"{sample} is not read from Hugging Face; set task.path to a file, or to {SAMPLE!r}")
        yield from _download(hub, revision)
        return
    if path == SAMPLE:
        source = _SAMPLES / f"{sample}.jsonl"
        if not source.exists():
            raise TaskError(
                f"no sample of {sample} ships with agentgraph; set task.path to a file, or to {HUB!r} to download it"
            )
    else:
        source = Path(path).expanduser()
    for file in _files(source):
        yield from _rows(file, columns)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.removesuffix(".gz").endswith(_KINDS))
    if not found:
        raise TaskError(f"task.path={path} is a folder without a file {', '.join(_KINDS)} (or .gz) in it; name another")
    return found


def _rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    text = read_text(file)
    kind = Path(file.name.removesuffix(".gz")).suffix
    if kind == ".csv":
        lines = csv.DictReader(io.StringIO(text, newline=""), columns or None)
        yield from ((f"{file}, row {number}", row) for number, row in enumerate(lines, start=1))
    elif kind == ".json" and not _has_lines(text):
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise TaskError(f"{file} is not JSON ({error}); give a list of objects, or a .jsonl file") from error
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
            yield f"{file}, entry {number}", _object(f"{file}, entry {number}", entry, str(entry))
    else:
        yield from json_lines(file, text)


def _has_lines(text: str) -> bool:
    """Whether what calls itself JSON is one object a line, as some benchmarks write it."""
    first, _, rest = text.strip().partition("\n")
    try:
        return bool(rest) and isinstance(json.loads(first), dict)
    except ValueError:
        return False


def sample_file(name: str) -> Path:
    """A file of the samples in the package."""
    return _SAMPLES / name


def read_text(file: Path, key: str = "task.path") -> str:
    """A UTF-8 file, unpacked if it is gzipped; errors say that ``key`` named it.

    Raises
    ------
    TaskError
        Naming the file and what to do.
    """
    try:
        data = file.read_bytes()
        return (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise TaskError(f"{key}={file} does not exist; name a file that does") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read {key}={file}: {error}; it must be a UTF-8 text file") from error


def json_lines(file: Path, text: str) -> Iterator[tuple[str, Row]]:
    """The objects of a text with one a line; empty lines are left out.

    Raises
    ------
    TaskError
        For a line that is not a JSON object.
    """
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it takes for the end of a line.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{file}, line {number}"
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise TaskError(f"{place} is not JSON ({error}): {line[:80]!r}") from error
            yield place, _object(place, entry, line)


def with_options(place: str, asked: str, options: Sequence[object], gold: object, last: str = "J") -> tuple[str, str]:
    """A question with its options on lines A, B, …, and the letter of the best one.

    Parameters
    ----------
    place
        Where the question stands, for errors.
    gold
        That option's letter, place (from 0) or text.
    last
        The last letter there may be.

    Raises
    ------
    TaskError
        If there are too few or too many options, or none of them is the gold one.
    """
    letters, texts = string.ascii_uppercase[: len(options)], [str(option) for option in options]
    if type(gold) is int:
        right = letters[gold] if 0 <= gold < len(letters) else ""
    else:
        said = str(gold)
        right = (
            said if said in tuple(letters) else next((letters[i] for i, text in enumerate(texts) if text == said), "")
        )
    if not right or len(letters) < 2 or letters[-1] > last:
        raise TaskError(
            f"{place}: answer {gold!r} of {len(options)} options; give 2 to {ord(last) - 64} options, and the letter, the place "
            "(from 0) or the text of one of them"
        )
    return "\n".join(
        [asked.strip(), "", *(f"{name}. {text}" for name, text in zip(letters, texts, strict=True))]
    ), right


def _object(place: str, entry: object, shown: str) -> Row:
    if not isinstance(entry, dict):
        raise TaskError(f"{place} is not a JSON object: {shown[:80]!r}; write {{…}} on each line")
    return entry


def _download(hub: Hub, revision: str | None) -> Iterator[tuple[str, Row]]:
    if not revision:
        raise TaskError(
            f"task.path={HUB} needs task.revision, the commit of {hub.name} to read, so that a run can be repeated"
        )
    try:
        import datasets
    except ImportError as error:
        raise TaskError(f"task.path={HUB} needs Hugging Face datasets; pip install 'agentgraph[data]'") from error
    try:
        found = datasets.load_dataset(hub.name, hub.subset, split=hub.split, revision=revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise TaskError(
            f"cannot load {hub.name} at {revision[:12]} from Hugging Face: {' '.join(str(error).split())[:200]}; "
            "check the network and task.revision, or set task.path to a file"
        ) from error
    yield from ((f"{hub.name}, row {number}", row) for number, row in enumerate(found))
