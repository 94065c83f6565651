"""Draws a plan file: as a tree for the terminal, as Mermaid text, or as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agentgraph.captions import node_label, price_line, score_line, stage_line
from agentgraph.errors import ConfigError
from agentgraph.graph import Graph
from agentgraph.plan_file import PlanFile
from agentgraph.store import write_atomically

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["SUFFIXES", "mermaid", "picture", "tree", "tree_text"]

SUFFIXES: Final = (".svg", ".png", ".mmd", ".txt")
"""What `picture` writes: two pictures, Mermaid, the plain tree."""


class _Branches(NamedTuple):
    """What stands before a parent that others follow, before the last one, and before the parents of either."""

    tee: str
    corner: str
    pipe: str
    blank: str


_BOX: Final = _Branches("├── ", "└── ", "│   ", "    ")
_ASCII: Final = _Branches("|-- ", "`-- ", "|   ", "    ")
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:-_()=/")


def tree(plan_file: PlanFile) -> Text:
    """The plan for a terminal: each stage from its sink down, a node's parents below it.

    A node that several others read is shown with its own parents once; after that it is only named.
    """
    from rich.text import Text

    styles = {
        "title": "bold",
        "price": "",
        "stage": "bold",
        "node": "",
        "again": "dim",
        "score": "green",
        "origin": "dim",
    }
    lines = [
        Text.assemble((branches, "dim"), (label, styles[kind])) for kind, branches, label in _lines(plan_file, _BOX)
    ]
    return Text("\n").join(lines)


def tree_text(plan_file: PlanFile) -> str:
    """The same in ASCII, for files and pipes; other characters in names are escaped."""
    text = "\n".join(branches + label for _, branches, label in _lines(plan_file, _ASCII))
    return text.encode("ascii", "backslashreplace").decode() + "\n"


def mermaid(plan_file: PlanFile) -> str:
    """Mermaid flowchart: a subgraph per stage, its sink with a thick border, a dotted arrow from stage to stage."""
    lines = ["flowchart LR"]
    for s, (stage, graph) in enumerate(zip(plan_file.stages, plan_file.plan().stages, strict=True)):
        lines.append(f'  subgraph stage{s}["{_escaped(stage_line(plan_file, stage))}"]')
        for i, node in enumerate(graph.nodes):
            opening, closing = ('(["', '"]):::sink') if i == graph.sink else ('["', '"]')
            lines.append(f"    s{s}n{i}{opening}{_escaped(f'{i} {node_label(plan_file, node)}')}{closing}")
        lines += [f"    s{s}n{i} --> s{s}n{j}" for i, j in graph.edges]
        lines.append("  end")
    lines += [f"  stage{s} -.-> stage{s + 1}" for s in range(len(plan_file.stages) - 1)]
    lines.append("  classDef sink stroke-width:4px")
    return "\n".join(lines) + "\n"


def picture(plan_file: PlanFile, path: str | Path) -> None:
    """Draw into a file whose suffix says what: .svg or .png (needs matplotlib), .mmd (Mermaid), .txt (plain tree).

    Equal plan files give equal bytes, for .svg and .png with the same matplotlib.

    Raises
    ------
    ConfigError
        If the suffix is another, or matplotlib is missing.
    RunError
        If the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"cannot draw into {path.name!r}: name a file that ends in {', '.join(SUFFIXES)}")
    if suffix == ".mmd":
        content = mermaid(plan_file).encode()
    elif suffix == ".txt":
        content = tree_text(plan_file).encode()
    else:
        from agentgraph.picture import drawn

        content = drawn(plan_file, suffix.lstrip("."))
    write_atomically(path, content)


def _lines(plan_file: PlanFile, branches: _Branches) -> Iterator[tuple[str, str, str]]:
    """Lines of the tree: kind, branches before it, label."""
    yield "title", "", plan_file.task
    yield "price", "", price_line(plan_file)
    for stage, graph in zip(plan_file.stages, plan_file.plan().stages, strict=True):
        if len(plan_file.stages) > 1:
            yield "stage", "", stage_line(plan_file, stage)
        yield from _below(plan_file, graph, branches, shown=set(), at=(graph.sink, "", ""))
    for score in plan_file.scores:
        yield "score", "", score_line(plan_file, score)
    found = plan_file.found
    yield (
        "origin",
        "",
        f"found by {found.optimizer} among {found.plans} plans in {found.rounds} rounds, seed {found.seed}, "
        f"agentgraph {found.agentgraph}",
    )


def _below(
    plan_file: PlanFile, graph: Graph, branches: _Branches, *, shown: set[int], at: tuple[int, str, str]
) -> Iterator[tuple[str, str, str]]:
    """Lines of a node and its parents; ``at`` is the node, what stands before it, and before its parents."""
    i, before, below = at
    if i in shown:
        yield "again", before, f"{i} {graph.nodes[i].role} (above)"
        return
    shown.add(i)
    yield "node", before, f"{i} {node_label(plan_file, graph.nodes[i])}"
    for j in graph.parents[i]:
        last = j == graph.parents[i][-1]
        ahead = (below + branches[last], below + (branches.blank if last else branches.pipe))
        yield from _below(plan_file, graph, branches, shown=shown, at=(j, *ahead))


def _escaped(text: str) -> str:
    """As Mermaid's entities (``#35;``), but for letters, digits and what cannot mean anything to Mermaid."""
    return "".join(char if char in _PLAIN else f"#{ord(char)};" for char in text)
