"""Checks of the ``key=value`` arguments that the searching benchmarks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def trouble(given: Mapping[str, str], *, keys: Sequence[str], counts: Sequence[str], worlds: Sequence[str]) -> str:
    """What is wrong with the arguments; '' if nothing is.

    Parameters
    ----------
    keys, worlds
        All that there are.
    counts
        Keys whose value is a whole number of at least 1.
    """
    strange = sorted(set(given) - set(keys))
    if strange:
        return f"unknown: {', '.join(strange)}; there are {', '.join(keys)}"
    for key in counts:
        if key in given and (not given[key].isdigit() or int(given[key]) < 1):
            return f"{key}={given[key]} must be a whole number of at least 1"
    absent = [name for name in given.get("worlds", worlds[0]).split(",") if name not in worlds]
    if absent:
        return f"unknown worlds: {', '.join(absent)}; there are {', '.join(worlds)}"
    if "report" in given and not Path(given["report"]).is_file():
        return f"report={given['report']} is not a file; give the out=<file> of earlier runs"
    return ""
