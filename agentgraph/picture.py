"""A plan file as a matplotlib figure. All places and sizes are inches, so nothing overlaps at any number of nodes."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from agentgraph.captions import price_line, score_line, stage_line, temperature
from agentgraph.errors import ConfigError
from agentgraph.graph import Graph
from agentgraph.layout import Layout, layered
from agentgraph.plan_file import PlanFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["drawn", "figure"]

Colour = str | tuple[float, float, float]
Edge = tuple[int, int]

MARGIN: Final = 0.3
ROW: Final = 0.72  # a node with the space around it
BOX: Final = 0.5
PADDING: Final = 0.14  # beside a node's text
GAP: Final = 0.85  # between columns
SWATCH: Final = 0.16
LINES: Final = {"title": (14.0, 0.34), "head": (9.5, 0.22), "stage": (10.5, 0.4), "legend": (9.0, 0.28)}
"""Font size in points and height of a line, by kind."""

# Paul Tol's "light" scheme: fills for black text that colour-blind people tell apart.
TINTS: Final = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00")
NO_MODEL: Final = "#E8E8E8"
INK: Final = "#333333"
WIRE: Final = "#777777"
STYLE: Final[dict[Any, Any]] = {"svg.hashsalt": "agentgraph", "svg.fonttype": "path", "font.family": "DejaVu Sans"}


def drawn(plan_file: PlanFile, kind: str) -> bytes:
    """The figure as 'svg' or 'png'; equal plan files give equal bytes.

    Raises
    ------
    ConfigError
        If matplotlib is missing.
    """
    plan_figure = figure(plan_file)
    import matplotlib as mpl

    content = BytesIO()
    with mpl.rc_context(STYLE):
        plan_figure.savefig(content, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return content.getvalue()


def figure(plan_file: PlanFile) -> Figure:
    """The plan, stage under stage: columns by depth, a colour per model, the sink with a thick border.

    Raises
    ------
    ConfigError
        If matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('pictures need matplotlib: pip install "agentgraph[report]", or draw .mmd or .txt') from error
    with mpl.rc_context(STYLE):
        sheet = _Sheet(plan_file)
        result = Figure(figsize=(sheet.width, sheet.height), facecolor="white")
        axes = result.add_axes((0, 0, 1, 1), xlim=(0, sheet.width), ylim=(sheet.height, 0))
        axes.axis("off")
        sheet.draw(axes)
    return result


class _Sheet:
    """Sizes of everything, then everything drawn from the top down."""

    def __init__(self, plan_file: PlanFile) -> None:
        self.file = plan_file
        self.graphs = plan_file.plan().stages
        self.layouts = [layered(graph) for graph in self.graphs]
        self.head = [price_line(plan_file), *(score_line(plan_file, score) for score in plan_file.scores)]
        by_size = sorted(plan_file.models, key=lambda name: (plan_file.models[name].parameters, name))
        self.colours = {name: _colour(rank) for rank, name in enumerate(by_size)}
        texts = [text for graph in self.graphs for i in range(len(graph.nodes)) for text in self.node_text(graph, i)]
        self.box = 2 * PADDING + max(_width(text, size, bold=bold) for text, size, bold in texts)
        out = max(_width(self.receiver(s), 9.0) for s in range(len(self.graphs)))
        columns = max(max(layout.columns) for layout in self.layouts) + 1
        several = len(self.graphs) > 1
        self.stage_lines = [stage_line(plan_file, stage) if several else "" for stage in plan_file.stages]
        self.stage_step = LINES["stage"][1] if several else 0.12
        wanted = [
            columns * self.box + (columns - 1) * GAP + 0.55 + out,
            _width(_short(plan_file.task, 80), LINES["title"][0], bold=True),
            *(_width(line, LINES["head"][0]) for line in self.head),
            *(_width(line, LINES["stage"][0], bold=True) for line in self.stage_lines),
        ]
        self.width = 2 * MARGIN + max(wanted)
        self.legend = list(_rows([(name, self.legend_text(name)) for name in by_size], self.width - 2 * MARGIN))
        self.height = (
            2 * MARGIN
            + LINES["title"][1]
            + len(self.head) * LINES["head"][1]
            + sum(self.stage_step + layout.height * ROW for layout in self.layouts)
            + 0.1
            + len(self.legend) * LINES["legend"][1]
        )

    def node_text(self, graph: Graph, i: int) -> tuple[tuple[str, float, bool], ...]:
        """Lines in the box of a node: text, size in points, bold."""
        node = graph.nodes[i]
        below = ", ".join(filter(None, (_short(node.model, 24), temperature(self.file, node))))
        return (f"{i}  {_short(node.role, 24)}", 9.5, True), (below or "no model", 7.5, False)

    def legend_text(self, name: str) -> str:
        """Name and size of a model."""
        size = self.file.models[name].parameters
        shown = next((f"{size / f:.3g} {p}" for f, p in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if size >= f), f"{size:g}")
        return f"{_short(name, 60)} ({shown} parameters)"

    def receiver(self, s: int) -> str:
        """What the sink of a stage answers."""
        return "answer" if s == len(self.graphs) - 1 else f"to {_short(self.file.stages[s + 1].name, 24)}"

    def draw(self, axes: Axes) -> None:
        """Draw title, stages and legend."""
        y = MARGIN
        for kind, text in (("title", _short(self.file.task, 80)), *(("head", line) for line in self.head)):
            size, step = LINES[kind]
            _write(axes, MARGIN, y + step / 2, text, size=size, bold=kind == "title")
            y += step
        for s, layout in enumerate(self.layouts):
            if self.stage_lines[s]:
                _write(axes, MARGIN, y + 0.25, self.stage_lines[s], size=LINES["stage"][0], bold=True)
            y += self.stage_step
            self.draw_stage(axes, s, y)
            y += layout.height * ROW
        y += 0.1
        for row in self.legend:
            for x, name, text in row:
                _fill(axes, MARGIN + x, y + LINES["legend"][1] / 2, (SWATCH, SWATCH), self.colours[name])
                _write(axes, MARGIN + x + SWATCH + 0.08, y + LINES["legend"][1] / 2, text, size=LINES["legend"][0])
            y += LINES["legend"][1]

    def draw_stage(self, axes: Axes, s: int, top: float) -> None:
        """Draw a graph below ``top``: first its edges, then its nodes."""
        graph, layout = self.graphs[s], self.layouts[s]
        pitch = self.box + GAP
        left = [MARGIN + column * pitch for column in layout.columns]
        middle = [top + height * ROW for height in layout.heights]
        leaving, arriving = _ports(graph, layout)
        for i, j in graph.edges:
            lanes = [
                (MARGIN + (layout.columns[i] + 1 + k) * pitch, top + height * ROW)
                for k, height in enumerate(layout.lanes[i, j])
            ]
            points = [(left[i] + self.box, middle[i] + leaving[i, j])]
            points += [point for x, y in lanes for point in ((x, y), (x + self.box, y))]
            _wire(axes, [*points, (left[j], middle[j] + arriving[i, j])])
        for i, node in enumerate(graph.nodes):
            fill = self.colours[node.model] if node.model else NO_MODEL
            _fill(axes, left[i], middle[i], (self.box, BOX), fill, border=2.2 if i == graph.sink else 0.8)
            for (text, size, bold), shift in zip(self.node_text(graph, i), (-0.085, 0.105), strict=True):
                _write(axes, left[i] + self.box / 2, middle[i] + shift, text, size=size, bold=bold, align="center")
        end = left[graph.sink] + self.box
        _wire(axes, [(end + 0.02, middle[graph.sink]), (end + 0.45, middle[graph.sink])])
        _write(axes, end + 0.52, middle[graph.sink], self.receiver(s), size=9.0)


def _ports(graph: Graph, layout: Layout) -> tuple[dict[Edge, float], dict[Edge, float]]:
    """Where edges leave and reach their nodes, in inches off the middle, ordered by where they go and come from."""
    leaving: dict[Edge, float] = {}
    arriving: dict[Edge, float] = {}
    ahead = {(i, j): (*layout.lanes[i, j], layout.heights[j])[0] for i, j in graph.edges}
    behind = {(i, j): (layout.heights[i], *layout.lanes[i, j])[-1] for i, j in graph.edges}
    for i in range(len(graph.nodes)):
        leaving.update(_spread(sorted(((i, j) for j in graph.children[i]), key=ahead.__getitem__)))
        arriving.update(_spread(sorted(((j, i) for j in graph.parents[i]), key=behind.__getitem__)))
    return leaving, arriving


def _spread(edges: Sequence[Edge]) -> Iterator[tuple[Edge, float]]:
    step = min(0.11, 0.7 * BOX / max(len(edges) - 1, 1))
    for rank, edge in enumerate(edges):
        yield edge, (rank - (len(edges) - 1) / 2) * step


def _rows(entries: Sequence[tuple[str, str]], width: float) -> Iterator[list[tuple[float, str, str]]]:
    """Legend entries in rows that fit the width: place, model, text."""
    row: list[tuple[float, str, str]] = []
    x = 0.0
    for name, text in entries:
        needed = SWATCH + 0.08 + _width(text, LINES["legend"][0])
        if row and x + needed > width:
            yield row
            row, x = [], 0.0
        row.append((x, name, text))
        x += needed + 0.3
    if row:
        yield row


def _colour(rank: int) -> Colour:
    return TINTS[rank] if rank < len(TINTS) else colorsys.hls_to_rgb(rank * 0.618 % 1, 0.78, 0.55)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _font(size: float, *, bold: bool) -> Any:  # noqa: ANN401  matplotlib has no types
    from matplotlib.font_manager import FontProperties

    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


def _width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a text in inches."""
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(text, _font(size, bold=bold), ismath=False)[0]) / 72


def _write(axes: Axes, x: float, y: float, text: str, *, size: float, bold: bool = False, align: str = "left") -> None:
    font = _font(size, bold=bold)
    axes.text(x, y, text, fontproperties=font, ha=align, va="center_baseline", color=INK, parse_math=False)


def _fill(axes: Axes, x: float, y: float, size: tuple[float, float], colour: Colour, *, border: float = 0.8) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = size
    radius = min(0.1, height / 4)
    box = FancyBboxPatch(
        (x, y - height / 2),
        width,
        height,
        boxstyle=f"round,pad=0,rounding_size={radius}",
        facecolor=colour,
        edgecolor=INK,
        linewidth=border,
    )
    axes.add_patch(box)


def _wire(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """An arrow through the points: curves between columns, straight where it passes one."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    places, codes = [points[0]], [Curve.MOVETO]
    for k, ((x0, y0), (x1, y1)) in enumerate(pairwise(points)):
        if k % 2:  # across a column
            places.append((x1, y1))
            codes.append(Curve.LINETO)
        else:
            bend = (x1 - x0) * 0.5
            places += [(x0 + bend, y0), (x1 - bend, y1), (x1, y1)]
            codes += [Curve.CURVE4] * 3
    arrow = FancyArrowPatch(
        path=Curve(places, codes),
        arrowstyle="-|>,head_length=4,head_width=2",
        mutation_scale=1,
        color=WIRE,
        linewidth=1.1,
        shrinkA=0,
        shrinkB=0,
    )
    axes.add_patch(arrow)
