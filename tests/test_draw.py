"""Drawings: every node and edge is there, nothing overlaps, nothing in a name is taken for markup, equal bytes."""

import io
import os
import re
import subprocess
import sys
from itertools import combinations

import pytest
from generators import plan_file_of, random_graph, random_plan_file

from agentgraph.budget import Budget, Cost
from agentgraph.captions import score_line
from agentgraph.draw import mermaid, picture, tree, tree_text
from agentgraph.errors import ConfigError, RunError
from agentgraph.graph import Graph, Node
from agentgraph.layout import layered
from agentgraph.picture import BOX, figure
from agentgraph.plan import Plan
from agentgraph.plan_format import BudgetEntry, PriceEntry

SMALL, LARGE, FUSER, VOTE = (
    Node("assistant", "tiny"),
    Node("careful", "qwen2.5-7b"),
    Node("fuser", "tiny"),
    Node("vote"),
)
SHARED = Plan((Graph((SMALL, LARGE, FUSER, VOTE), ((0, 1), (1, 2), (1, 3), (2, 3))),))
STAR = Graph((*[SMALL] * 8, VOTE), tuple((i, 8) for i in range(8)))
CHAIN = Graph((SMALL,) * 5, tuple((i, i + 1) for i in range(4)))
ALL_EDGES = Graph((SMALL,) * 12, tuple((i, j) for j in range(12) for i in range(j)))


# ---- tree


def test_tree_of_a_shared_node():
    assert tree_text(plan_file_of(SHARED)).splitlines()[2:7] == [
        "3 vote",
        "|-- 1 careful(qwen2.5-7b) T=0",
        "|   `-- 0 assistant(tiny) T=0.7",
        "`-- 2 fuser(tiny) T=0.3",
        "    `-- 1 careful (above)",
    ]


def test_tree_tells_task_price_score_and_origin():
    plan_file = plan_file_of(SHARED, task="calc")
    lines = tree_text(plan_file).splitlines()
    assert lines[0] == "calc"
    assert re.fullmatch(r"price [\d.]+ of 30 units \([\d.]+ GFLOP of 30 GFLOP\), 3 calls a question", lines[1])
    assert re.fullmatch(r"validation accuracy 0\.\d{3} \[.*\] on 200 questions, charge [\d.]+ units", lines[-2])
    assert lines[-1] == "found by agent_reinforce among 80 plans in 10 rounds, seed 0, agentgraph 0.1.0"
    assert "step 0" not in tree_text(plan_file)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (
            Budget(unit=1e9, usd=0.02, seconds=3),
            "price 0.012 of 0.02 USD, 2.5 of 3 s (5 units, 5 GFLOP), 4 calls a question",
        ),
        (
            Budget(1e10, 1e9, tokens=2000),
            "price 5 of 10 units, 120 of 2,000 tokens (5 GFLOP of 10 GFLOP), 4 calls a question",
        ),
    ],
)
def test_price_is_told_in_what_is_limited(budget, told):
    plan_file = plan_file_of(SHARED)
    price = PriceEntry.of(Cost(5e9, 4, 80, 40, 0.012, 2.5, 7), budget)
    priced = plan_file.model_copy(update={"budget": BudgetEntry.of(budget), "price": price})
    assert tree_text(priced).splitlines()[1] == told
    score = plan_file.scores[0].model_copy(update={"charge_usd": 0.013, "charge_seconds": 2.25})
    assert score_line(priced, score).endswith("units, 0.013 USD, 2.25 s")


def test_tree_of_stages_tells_price_and_budget_of_each():
    text = tree_text(plan_file_of(Plan((STAR, CHAIN))))
    assert re.search(r"^step 0: price [\d.]+ of 10 units$", text, re.MULTILINE)
    assert re.search(r"^step 1: price [\d.]+ of 10 units$", text, re.MULTILINE)


@pytest.mark.parametrize("seed", range(30))
def test_tree_has_every_node_and_as_many_lines_as_edges(seed):
    plan_file = random_plan_file(seed, stages=1)
    graph = plan_file.plan().stages[0]
    lines = tree_text(plan_file).splitlines()[2:-2]
    assert len(lines) == len(graph.edges) + 1
    shown = [int(re.search(r"\d+", line)[0]) for line in lines if not line.endswith("(above)")]
    assert sorted(shown) == list(range(len(graph.nodes)))


def test_terminal_tree_is_the_same_with_box_characters():
    from rich.console import Console

    plan_file = plan_file_of(SHARED, task="[bold]x[/bold]")
    screen = io.StringIO()
    Console(width=200, file=screen).print(tree(plan_file))
    plain = tree_text(plan_file).replace("|--", "├──").replace("`--", "└──").replace("|  ", "│  ")
    assert screen.getvalue() == plain


def test_text_tree_is_ascii():
    text = tree_text(plan_file_of(SHARED, task="prüfung 数"))
    assert text.isascii()
    assert r"pr\xfcfung \u6570" in text


# ---- Mermaid


def test_mermaid():
    text = mermaid(plan_file_of(Plan((SHARED.stages[0], CHAIN))))
    assert text.startswith("flowchart LR\n  subgraph stage0[")
    assert '    s0n3(["3 vote"]):::sink\n' in text
    assert '    s0n1["1 careful(qwen2.5-7b) T=0"]\n' in text
    assert text.count("\n  end\n") == 2
    assert len(re.findall(r"^    s0n\d+ --> s0n\d+$", text, re.MULTILINE)) == 4
    assert len(re.findall(r"^    s1n\d+ --> s1n\d+$", text, re.MULTILINE)) == 4
    assert "  stage0 -.-> stage1\n" in text


def test_mermaid_escapes_names():
    plan_file = plan_file_of(SHARED)
    stage = plan_file.stages[0].model_copy(update={"name": 'say "hi"]; <b>#1</b>`'})
    text = mermaid(plan_file.model_copy(update={"stages": (stage,)}))
    assert "say #34;hi#34;#93;#59; #60;b#62;#35;1#60;/b#62;#96;" in text
    assert text.count('"') == 2 * (len(SHARED.stages[0].nodes) + 1)


# ---- layout


@pytest.mark.parametrize("graph", [STAR, CHAIN, ALL_EDGES, *(random_graph(seed) for seed in range(40))])
def test_layout_keeps_things_apart(graph):
    layout = layered(graph, lane=0.35)
    assert all(layout.columns[i] < layout.columns[j] for i, j in graph.edges)
    assert [i for i, column in enumerate(layout.columns) if column == max(layout.columns)] == [graph.sink]
    items = [(column, height, 1.0) for column, height in zip(layout.columns, layout.heights, strict=True)]
    for (i, j), lanes in layout.lanes.items():
        assert len(lanes) == layout.columns[j] - layout.columns[i] - 1
        items += [(layout.columns[i] + 1 + k, height, 0.35) for k, height in enumerate(lanes)]
    for a, b in combinations(items, 2):
        assert a[0] != b[0] or abs(a[1] - b[1]) >= (a[2] + b[2]) / 2 - 1e-9
    assert all(size / 2 - 1e-9 <= height <= layout.height - size / 2 + 1e-9 for _, height, size in items)


def test_layout_has_no_needless_crossing():
    # 0 -> 3, 1 -> 2, both -> 4: drawn in the order of the numbers the edges would cross
    layout = layered(Graph((SMALL, SMALL, LARGE, LARGE, VOTE), ((0, 3), (1, 2), (2, 4), (3, 4))))
    assert (layout.heights[0] < layout.heights[1]) == (layout.heights[3] < layout.heights[2])


def test_chain_is_straight_and_star_is_centred():
    assert len(set(layered(CHAIN).heights)) == 1
    heights = layered(STAR).heights
    assert heights[8] == pytest.approx(sum(heights[:8]) / 8)


# ---- pictures


@pytest.mark.parametrize("n", range(1, 13))
def test_texts_are_inside_and_do_not_overlap(n):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    plan = Plan((random_graph(n, nodes=n), random_graph(n + 1))) if n % 3 == 0 else Plan((random_graph(n, nodes=n),))
    drawn = figure(plan_file_of(plan, task="a rather long name of a task, with <b> and $x^2$ and [red]"))
    renderer = FigureCanvasAgg(drawn).get_renderer()
    extents = [text.get_window_extent(renderer) for text in drawn.axes[0].texts]
    for extent in extents:
        assert drawn.bbox.x0 <= extent.x0 < extent.x1 <= drawn.bbox.x1
        assert drawn.bbox.y0 <= extent.y0 < extent.y1 <= drawn.bbox.y1
    assert not [pair for pair in combinations(extents, 2) if pair[0].overlaps(pair[1])]


def test_picture_tells_everything():
    drawn = figure(plan_file_of(Plan((SHARED.stages[0], CHAIN)), task="calc"))
    texts = [text.get_text() for text in drawn.axes[0].texts]
    assert texts[0] == "calc"
    assert texts[1].startswith("price ")
    assert texts[2].startswith("validation accuracy 0.")
    for expected in ("3  vote", "no model", "qwen2.5-7b, T=0", "to step 1", "answer", "tiny (200 k parameters)"):
        assert expected in texts


def test_one_colour_per_model_and_a_thick_border_for_the_sink():
    from matplotlib.patches import FancyBboxPatch

    boxes = [patch for patch in figure(plan_file_of(SHARED)).axes[0].patches if isinstance(patch, FancyBboxPatch)]
    nodes = [box for box in boxes if box.get_height() == pytest.approx(BOX)]
    small, large, fuser, vote = nodes
    assert small.get_facecolor() == fuser.get_facecolor()
    assert len({node.get_facecolor() for node in (small, large, vote)}) == 3
    assert vote.get_linewidth() > max(node.get_linewidth() for node in (small, large, fuser))


@pytest.mark.parametrize("suffix", [".svg", ".png", ".mmd", ".txt"])
def test_equal_bytes_in_another_process(suffix, tmp_path):
    plan_file = random_plan_file(4)
    plan_file.write(tmp_path / "plan.json")
    picture(plan_file, tmp_path / f"here{suffix}")
    script = (
        "import sys; from agentgraph.draw import picture; from agentgraph.plan_file import PlanFile; "
        "picture(PlanFile.read(sys.argv[1]), sys.argv[2])"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "plan.json"), str(tmp_path / f"there{suffix}")]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": "5"})
    assert (tmp_path / f"here{suffix}").read_bytes() == (tmp_path / f"there{suffix}").read_bytes()
    if suffix == ".svg":
        assert "<dc:date>" not in (tmp_path / "here.svg").read_text(encoding="utf-8")


def test_other_suffix(tmp_path):
    with pytest.raises(
        ConfigError, match=r"cannot draw into 'plan\.pdf': name a file that ends in \.svg, \.png, \.mmd"
    ):
        picture(plan_file_of(SHARED), tmp_path / "plan.pdf")


@pytest.mark.parametrize("name", ["plan.svg", "plan.txt"])
def test_folder_that_is_not_there(name, tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*plan\..*: No such file or directory"):
        picture(plan_file_of(SHARED), tmp_path / "none" / name)


def test_without_matplotlib(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r'pictures need matplotlib: pip install "agentgraph\[report\]"'):
        picture(plan_file_of(SHARED), tmp_path / "plan.png")
    picture(plan_file_of(SHARED), tmp_path / "plan.mmd")


def test_imports_are_light():
    script = (
        "import sys, agentgraph.plan_file, agentgraph.draw, agentgraph.picture, agentgraph.watch, agentgraph.report; "
        "print([name for name in ('matplotlib', 'rich', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
