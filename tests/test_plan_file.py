"""Plan files: round trip, equal bytes, the published schema, and one test for each way a file can be wrong."""

import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jsonschema
import networkx as nx
import pytest
from generators import MODELS, ROLES, plan_file_of, random_plan, random_plan_file

from agentgraph.budget import Budget, Cost, Rates
from agentgraph.errors import GraphError, PlanFileError, RunError, SpaceError
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.plan_file import PlanFile, json_schema
from agentgraph.plan_format import ModelEntry
from agentgraph.prompt import FORMS
from agentgraph.roles.rules import check_roles

SMALL = Node("assistant", "tiny")
DIAMOND = Plan((Graph((SMALL, SMALL, Node("fuser", "qwen2.5-7b"), Node("vote")), ((0, 2), (1, 2), (1, 3), (2, 3))),))
SCHEMA = Path(__file__).parent.parent / "conf" / "plan.schema.json"


@pytest.fixture
def content():
    return json.loads(plan_file_of(DIAMOND).text())


@pytest.fixture
def message(tmp_path):
    """The one line that reading the given content raises."""

    def read(content):
        path = tmp_path / "plan.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        with pytest.raises(PlanFileError) as caught:
            PlanFile.read(path)
        text = str(caught.value)
        assert str(path) in text
        assert "\n" not in text
        return text

    return read


def node(content, id_):
    return next(entry for entry in content["stages"][0]["graph"]["nodes"] if entry["id"] == id_)


def connect(content, *edges):
    content["stages"][0]["graph"]["edges"] += [{"source": i, "target": j} for i, j in edges]


# ---- what is written can be read


@pytest.mark.parametrize("seed", range(100))
def test_written_file_reads_back_equal(seed, tmp_path):
    plan_file = random_plan_file(seed)
    path = tmp_path / "best.json"
    plan_file.write(path)
    again = PlanFile.read(path)
    assert again == plan_file
    assert again.plan() == random_plan(seed)
    assert again.text() == path.read_text(encoding="utf-8")
    assert all(again.role_objects()[name] == ROLES[name] for name in again.roles)


@pytest.mark.parametrize("seed", range(30))
def test_equal_plans_give_equal_bytes_however_nodes_are_numbered(seed):
    plan = random_plan(seed, stages=1)
    graph = plan.stages[0]
    order = list(nx.lexicographical_topological_sort(nx.DiGraph(graph.edges), key=lambda i: -i)) or [0]
    renumbered = Graph(
        tuple(graph.nodes[i] for i in order), tuple((order.index(i), order.index(j)) for i, j in graph.edges)
    )
    assert plan_file_of(Plan((renumbered,))).text() == plan_file_of(plan).text()


def test_roles_given_in_another_order_give_equal_bytes():
    content = json.loads(plan_file_of(DIAMOND).text())
    content["roles"] = dict(reversed(content["roles"].items()))
    content["models"] = dict(reversed(content["models"].items()))
    assert PlanFile.model_validate(content).text() == plan_file_of(DIAMOND).text()


def test_only_what_the_plan_uses_is_described(content):
    assert list(content["roles"]) == ["assistant", "fuser", "vote"]
    assert list(content["models"]) == ["qwen2.5-7b", "tiny"]
    assert "_target_" not in json.dumps(content)


def test_networkx_reads_the_graph(content):
    graph = nx.node_link_graph(content["stages"][0]["graph"], edges="edges")
    assert sorted(graph.edges) == list(DIAMOND.stages[0].edges)
    assert nx.is_directed_acyclic_graph(graph)


def test_nodes_in_any_order_and_with_gaps_in_their_ids_are_the_same_plan(content, tmp_path):
    graph = content["stages"][0]["graph"]
    graph["nodes"] = [{**entry, "id": 90 - 7 * entry["id"]} for entry in graph["nodes"]]
    graph["edges"] = [{"source": 90 - 7 * e["source"], "target": 90 - 7 * e["target"]} for e in graph["edges"]]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content), encoding="utf-8-sig")  # as some editors save it
    assert PlanFile.read(path).plan() == DIAMOND


def test_published_schema_is_up_to_date():
    fresh = json.dumps(json_schema(), indent=2) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == fresh, (
        'write it again: python -c "import json; from agentgraph.plan_file import json_schema; '
        'print(json.dumps(json_schema(), indent=2))" > conf/plan.schema.json'
    )


def test_schema_accepts_every_plan_file_and_refuses_what_the_reader_refuses(content):
    validator = jsonschema.Draft202012Validator(json_schema())
    jsonschema.Draft202012Validator.check_schema(json_schema())
    for seed in range(30):
        assert validator.is_valid(json.loads(random_plan_file(seed).text()))
    content["budget"]["flops"] = -1
    assert not validator.is_valid(content)
    assert not validator.is_valid({"kind": "plan", "format": 3})


def test_prompt_forms_are_those_of_this_version():
    assert get_args(ModelEntry.model_fields["prompt_form"].annotation) == FORMS


# ---- files that are no plans


def test_missing_file(tmp_path):
    with pytest.raises(PlanFileError, match=r"there is no file .*best\.json; name the plan file"):
        PlanFile.read(tmp_path / "best.json")


def test_folder(tmp_path):
    with pytest.raises(PlanFileError, match=r"is a folder; name the plan file in it"):
        PlanFile.read(tmp_path)


def test_not_text(tmp_path):
    path = tmp_path / "plan.json"
    path.write_bytes(b"{\xff")
    with pytest.raises(PlanFileError, match=r"is not a text file \(byte 1 is not UTF-8\)"):
        PlanFile.read(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is not JSON: Expecting value (line 1, column 1)"),
        ('{"kind": "plan",\n  "format" 1}', "is not JSON: Expecting ':' delimiter (line 2, column 12)"),
        ('{"kind": "plan", "format": NaN}', "NaN is not a number in JSON"),
        ("[" * 100_000, "is not a plan: "),
        ('{"kind": "plan", "format": 1' + "0" * 5000 + "}", "is not a plan: "),
        ("[1, 2]", "it holds a JSON list, expected an object with kind"),
        ('{"kind": "front"}', 'it holds kind "front", expected an object with kind "plan"'),
        ('{"nodes": []}', "it holds kind null, expected"),
        ('{"kind": "plan", "format": 3}', "was written in format 3, this version reads 1; upgrade agentgraph"),
        ('{"kind": "plan", "format": "1"}', 'format is "1", expected 1'),
        ('{"kind": "plan", "format": true}', "format is true, expected 1"),
        ('{"kind": "plan"}', "format is null, expected 1"),
        ('{"kind": "plan", "format": 0}', "format is 0, expected 1 (and 8 more)"),
        ('{"kind": "plan", "format": 1}', "task is missing; add it or export the plan again (and 7 more)"),
    ],
)
def test_text_that_is_no_plan(text, expected, message):
    assert expected in message(text)


# ---- plans that break the schema


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: node(c, 2).update(role=5), "stages[0].graph.nodes[2].role is 5, expected a valid string"),
        (lambda c: node(c, 2).update(id=-1), "nodes[2].id is -1, expected greater than or equal to 0"),
        (
            lambda c: c["roles"]["fuser"]["settings"].update(temprature=1),
            "roles.fuser.settings.temprature is an unknown key; allowed there are temperature, top_p, max_tokens",
        ),
        (lambda c: c.update(run="rm"), "run is an unknown key; allowed there are kind, format, task, stages"),
        (lambda c: c["stages"][0].update(colour=1), "stages[0].colour is an unknown key; allowed there are name,"),
        (lambda c: c["roles"]["fuser"]["settings"].update(temperature=9), "temperature is 9, expected less than or"),
        (lambda c: c["roles"]["fuser"]["settings"].update(top_p="1"), 'top_p is "1", expected a valid number'),
        (lambda c: c["roles"]["fuser"].update(edge="both"), "edge is \"both\", expected 'answer' or 'text'"),
        (lambda c: c["models"]["qwen2.5-7b"].update(layers=1.5), "models['qwen2.5-7b'].layers is 1.5, expected a"),
        (lambda c: c["scores"][0].update(accuracy=1.2), "scores[0].accuracy is 1.2, expected less than or equal to 1"),
        (lambda c: c.update(task="a\x1b[2J"), r'task is "a\u001b[2J", expected text to match pattern'),
        (lambda c: c.update(task="x" * 300), "…, expected text to have at most 200 characters"),
        (lambda c: c.update(stages=[]), "stages is [], expected a list to have at least 1 item, not 0"),
        (lambda c: c["stages"][0]["graph"].update(directed=False), "directed is false, expected True"),
        (
            lambda c: [c.pop("roles"), c.pop("price"), c.pop("found")],
            "roles is missing; add it or export the plan again",
        ),
    ],
)
def test_schema_violation(edit, expected, content, message):
    edit(content)
    assert expected in message(content)


# ---- plans that break a rule


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: connect(c, (2, 1)), "stage 'step 0': the graph has the cycle 2 -> 1 -> 2; remove one edge of it"),
        (lambda c: connect(c, (1, 1)), "the graph has the cycle 1 -> 1"),
        (lambda c: connect(c, (1, 9)), "edge (1, 9) names a node that is not there; nodes are [0, 1, 2, 3]"),
        (lambda c: connect(c, (2, 3)), "edge (2, 3) is listed twice; remove one"),
        (lambda c: node(c, 2).update(id=1), "two nodes have the same id"),
        (lambda c: c["stages"][0]["graph"]["edges"].pop(), "needs exactly one sink, nodes without children are [2, 3]"),
        (
            lambda c: node(c, 2).update(role="judge"),
            "stage 'step 0', node 2: role 'judge' is not described; 'roles' has",
        ),
        (
            lambda c: node(c, 0).update(model="gpt"),
            "node 0: model 'gpt' is not described; 'models' has qwen2.5-7b, tiny",
        ),
        (lambda c: node(c, 0).update(role="fuser"), "node 0 (fuser(tiny)) has 0 parents, its role needs at least 1"),
        (lambda c: node(c, 0).update(model=None), "node 0 (assistant) names no model, its role needs one"),
        (lambda c: node(c, 3).update(model="tiny"), "node 3 (vote(tiny)) names the model 'tiny', its role calls none"),
        (
            lambda c: node(c, 2).update(role="vote", model=None),
            "stage 'step 0': node 2 (vote) hands its message to 3, but its role may only be the sink",
        ),
        (
            lambda c: node(c, 3).update(role="fuser", model="tiny"),
            "node 2 (fuser(qwen2.5-7b)) hands its message to node 3 (fuser(tiny)); a fuser may not stand above a fuser",
        ),
        (
            lambda c: c["roles"]["fuser"].update(kind="wizard"),
            "role 'fuser': role kind 'wizard' is unknown; this version",
        ),
        (lambda c: c["roles"]["fuser"].update(kind="base"), "role kind 'base' is unknown"),
        (lambda c: c["stages"].append(c["stages"][0]), "two stages are called 'step 0'"),
    ],
)
def test_broken_rule(edit, expected, content, message):
    edit(content)
    assert expected in message(content)


def test_cycle_between_ids_with_gaps_says_how_nodes_are_counted(content, message):
    graph = content["stages"][0]["graph"]
    graph["nodes"] = [{**entry, "id": 10 * entry["id"]} for entry in graph["nodes"]]
    graph["edges"] = [{"source": 10 * e["source"], "target": 10 * e["target"]} for e in graph["edges"]]
    connect(content, (20, 10))
    assert "the cycle 2 -> 1 -> 2; remove one edge of it (nodes counted from 0 in the order of the ids" in message(
        content
    )


def test_roles_are_checked_with_the_ids_of_the_file(content, message):
    graph = content["stages"][0]["graph"]
    graph["nodes"].append({"id": 40, "role": "fuser", "model": "tiny"})
    connect(content, (40, 2))
    assert "node 40 (fuser(tiny)) has 0 parents" in message(content)


def test_plan_raises_the_same_for_content_that_was_not_read_from_a_file(content):
    connect(content, (2, 0))
    with pytest.raises(GraphError, match="stage 'step 0': the graph has the cycle"):
        PlanFile.model_validate(content).plan()


def test_sink_that_may_not_be_one():
    class Inner(type(ROLES["assistant"])):
        may_be_sink = False

    with pytest.raises(GraphError, match=r"node 0 \(x\(m\)\) is the sink, which its role may not be"):
        check_roles(Graph((Node("x", "m"),)), {"x": Inner(name="x")})
    with pytest.raises(GraphError, match="node 0 has the unknown role 'x'; there are fuser"):
        check_roles(Graph((Node("x", "m"),)), {"fuser": ROLES["fuser"]})


@pytest.mark.parametrize("seed", range(100))
def test_generated_graphs_keep_the_rules(seed):
    for graph in random_plan(seed).stages:
        check_roles(graph, ROLES)


# ---- making


def make(plan, **changes):
    kept = plan_file_of(plan)
    arguments = {
        "task": "calc",
        "stage_names": ["answer"],
        "roles": ROLES,
        "models": MODELS,
        "budget": Budget(1e9, 1e8),
        "price": Cost(5e8),
        "scores": kept.scores,
        "found": kept.found,
    }
    return PlanFile.make(plan, **(arguments | changes))


def test_price_is_also_given_in_units():
    assert make(DIAMOND).price.units == pytest.approx(5)
    assert make(DIAMOND).budget.units == pytest.approx(10)


RATED = {name: replace(model, usd=Rates(0.0, 1e-7, 2e-7), seconds=Rates(0.3)) for name, model in MODELS.items()}
PRICE = Cost(5e8, 4, 80.0, 40.0, 0.012, 2.5, 7.0)


@pytest.mark.parametrize(
    "budget",
    [Budget(1e9, 1e8), Budget(unit=1e8, usd=0.02, seconds=3), Budget(1e9, 1e8, calls=9, tokens=900, tts_units=40)],
)
def test_budget_and_price_come_back_in_every_resource(budget, tmp_path):
    made = make(DIAMOND, budget=budget, price=PRICE, models=RATED)
    made.write(tmp_path / "plan.json")
    read = PlanFile.read(tmp_path / "plan.json")
    assert read.budget.budget() == budget
    told = PRICE if "tts_units" in budget.limits else replace(PRICE, tts_units=0.0)
    assert read.price.cost() == told
    assert {name: entry.seconds.rates() for name, entry in read.models.items()} == dict.fromkeys(
        read.models, Rates(0.3)
    )
    jsonschema.validate(json.loads(made.text()), json_schema())


def test_files_without_dollars_and_seconds_are_read(content, tmp_path):
    later = {
        "budget": ("calls", "tokens", "usd", "seconds", "tts_units"),
        "price": ("usd", "seconds", "tts_units"),
    }
    for part, names in later.items():
        for name in names:
            del content[part][name]
    for entry in content["scores"]:
        del entry["charge_usd"], entry["charge_seconds"]
    for entry in content["models"].values():
        del entry["usd"], entry["seconds"]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    read = PlanFile.read(path)
    assert read.budget.budget().limits == {"flops": 3e10}
    assert read.price.cost().usd == 0


def test_role_or_model_that_is_not_given():
    with pytest.raises(SpaceError, match="the plan uses the role 'assistant', given are fuser, vote; pass it too"):
        make(DIAMOND, roles={name: ROLES[name] for name in ("fuser", "vote")})
    with pytest.raises(SpaceError, match=r"the plan uses the model .*, given are none; pass it too"):
        make(DIAMOND, models={})


def test_stage_without_a_name():
    with pytest.raises(GraphError, match=r"the plan has 1 stages, got the names \[\]"):
        make(DIAMOND, stage_names=[])


# ---- writing


def test_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "best.json"
    plan_file_of(DIAMOND).write(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(RunError, match=r"cannot write .*best\.json: File too large; free some space"):
            random_plan_file(1).write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*: No such file or directory"):
        plan_file_of(DIAMOND).write(tmp_path / "runs" / "best.json")
