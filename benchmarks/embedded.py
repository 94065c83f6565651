"""Does the search beat what one would wire by hand, at the same budget, on questions used for nothing else?

For each task, budget and seed: one search with the defaults, then the found plan against the best of the hand-wired
plans (one model each, the best of each kind chosen on validation questions; of those the one that does best on the test
questions, which favours the rivals). Prints a line per search and a table with the paired difference.

    python benchmarks/embedded.py [--tasks calc recall] [--budgets 4 8 16] [--seeds 0 1 2 3 4] [--test 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import agentgraph as ag


def one(task: str, units: float, seed: int, test: int) -> dict[str, object]:
    """One search; found plan and best rival on ``test`` questions."""
    began = time.monotonic()
    settings = {"task.sizes.test": test, "seed": seed, "max_nodes": int(min(16, units) + 2)}
    result = ag.search(task, budget_units=units, watch=False, **settings)
    found, *rivals = result.rows
    rival = max(rivals, key=lambda row: row.accuracy)
    less, low, high = rival.difference or (0.0, 0.0, 0.0)
    graph = result.best.plan().stages[0]
    return {
        "task": task,
        "units": units,
        "seed": seed,
        "found": found.accuracy,
        "rival": rival.accuracy,
        "rival_kind": rival.name,
        "gain": -less,
        "low": -high,
        "high": -low,
        "price": found.price_units,
        "charge": found.charge_units,
        "models": dict(sorted(Counter(node.model for node in graph.nodes if node.model).items())),
        "sink": graph.nodes[-1].role,
        "width": graph.width,
        "depth": graph.depth,
        "made": result.summary["calls_made"],
        "asked": result.summary["calls_asked"],
        "plans": result.summary["plans"],
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    """Run the grid and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["calc", "recall"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[4, 8, 16])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--test", type=int, default=1000, help="test questions of each search")
    parser.add_argument("--out", type=Path, help="also write every line as JSON here")
    arguments = parser.parse_args()
    results = []
    for task in arguments.tasks:
        for units in arguments.budgets:
            for seed in arguments.seeds:
                line = one(task, units, seed, arguments.test)
                results.append(line)
                models = " ".join(f"{count}x{name}" for name, count in line["models"].items())
                print(
                    f"{task:7s} {units:3.0f} units seed {seed}: found {line['found']:.3f}, rival {line['rival']:.3f} "
                    f"({line['rival_kind']}), gain {line['gain']:+.3f} [{line['low']:+.3f}, {line['high']:+.3f}]; "
                    f"width {line['width']} depth {line['depth']} {line['sink']}: {models}; {line['plans']} plans, "
                    f"{line['made']:,} of {line['asked']:,} calls made, {line['seconds']:.0f} s",
                    flush=True,
                )
                if arguments.out:
                    arguments.out.write_text(json.dumps(results, indent=1))
    print(f"\n{arguments.test} test questions each; gain = found - best rival, paired, 95 % interval of each search")
    print(
        f"{'task':8s}{'units':>6s}{'found':>8s}{'rival':>8s}{'gain':>8s}{'worst':>8s}{'better':>8s}{'worse':>7s}{'seeds':>7s}"
    )
    for task in arguments.tasks:
        for units in arguments.budgets:
            rows = [line for line in results if line["task"] == task and line["units"] == units]
            mean = {key: statistics.fmean(row[key] for row in rows) for key in ("found", "rival", "gain")}
            better, worse = sum(row["low"] > 0 for row in rows), sum(row["high"] < 0 for row in rows)
            worst = min(row["gain"] for row in rows)
            print(
                f"{task:8s}{units:6.0f}{mean['found']:8.3f}{mean['rival']:8.3f}{mean['gain']:+8.3f}{worst:+8.3f}"
                f"{better:8d}{worse:7d}{len(rows):7d}"
            )


if __name__ == "__main__":
    main()
