"""What real models once answered, as folders that agentgraph searches without a model.

Reads public tables of recorded replies, checks the accuracy of every model against the tables' own statistics, and prints
what there is. The tables are not part of this repository; where one is absent, that is said and the others are read.

    python benchmarks/recorded_worlds.py data=<folder of the tables> [world=mmlu_pro] [out=<folder>]

With ``out`` each world is written into a folder of its own below it:

    agentgraph search task=recorded task.path=<out>/mmlu_pro models=recorded role=[assistant,keep,vote,confidence_vote]

Exit status 1 if an accuracy is not what the statistics say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from recorded import livecodebench, llm_cascades, mmlu_pro, mot_cascade, zeroeval
from recorded.world import World

READERS = (llm_cascades, mot_cascade, zeroeval, mmlu_pro, livecodebench)
TOLERANCE = {"livecodebench-execution_direct": 0.51, "livecodebench-execution_cot": 0.51}
"""Points that an accuracy may differ; these two are stated as whole percents."""


def read(data: Path, name: str = "") -> Iterator[World]:
    """Every world whose table is there and whose name begins with ``name``; says which tables are not."""
    for reader in READERS:
        table = reader.__name__.rpartition(".")[2]
        if not name.startswith(table) and name:
            continue
        if not (data / table).is_dir():
            print(f"skipped {table}: {data / table} is not there")
            continue
        yield from (world for world in reader.worlds(data) if world.name.startswith(name))


def row(world: World) -> tuple[str, bool]:
    """One line on a world, and whether its accuracies are as stated."""
    found = world.accuracy()
    best = max(found, key=lambda model: found[model])
    apart = max((abs(found.get(model, 999.0) - stated) for model, stated in world.stated.items()), default=0.0)
    good = apart <= TOLERANCE.get(world.name, 0.1)
    checked = f"{len(world.stated)} checked, {apart:.2f} apart" if world.stated else "not stated"
    samples = max(reply.sample for reply in world.replies) + 1
    kept = "marks" if world.marks_only else "answers"
    line = (
        f"{world.name:<31} {len(world.questions):>9} {len(world.sizes):>6} {samples:>7} {len(world.replies):>7} "
        f"{kept:<7} {min(found.values()):>6.1f} {found[best]:>6.1f} {best:<32} {checked}"
    )
    return line, good


def main(arguments: list[str]) -> int:
    """Read, check, print and write."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    strange = sorted(set(given) - {"data", "world", "out"})
    if strange or not given.get("data"):
        print(f"{'unknown: ' + ', '.join(strange) if strange else 'data is missing'}; give data=<folder of the tables>")
        return 2
    print(
        f"{'world':<31} {'questions':>9} {'models':>6} {'samples':>7} {'replies':>7} {'kept':<7} {'worst':>6} {'best':>6}"
    )
    good = True
    for world in read(Path(given["data"]).expanduser(), given.get("world", "")):
        line, as_stated = row(world)
        good &= as_stated
        print(line if as_stated else f"{line}  NOT AS STATED")
        whole = world.complete()
        for note in whole.notes:
            print(f"    {note}")
        if given.get("out"):
            print(f"    written to {whole.write(Path(given['out']) / world.name)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
