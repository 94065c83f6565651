"""What `import agentgraph` offers, and what it does not load before that is needed."""

import subprocess
import sys

import pytest

import agentgraph

NAMES = [
    "AgentGraphError",
    "AgentReinforce",
    "Archive",
    "Budget",
    "Cost",
    "Graph",
    "Model",
    "Node",
    "OpenAIServer",
    "Plan",
    "PlanFile",
    "Result",
    "Scripted",
    "Trial",
    "__version__",
    "load_models",
    "load_role",
    "load_task",
    "pick",
    "replay",
    "search",
]
HEAVY = ("torch", "openai", "hydra", "omegaconf", "optuna", "networkx", "pydantic", "rich", "matplotlib")


def test_names():
    assert sorted(agentgraph.__all__) == NAMES
    assert set(NAMES) <= set(dir(agentgraph))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there(name):
    found = getattr(agentgraph, name)
    assert isinstance(found, str) or callable(found)


def test_functions_stay_functions_when_their_modules_are_imported():
    import agentgraph.replay
    import agentgraph.search

    assert callable(agentgraph.search)
    assert callable(agentgraph.replay)
    assert sys.modules["agentgraph.search"].search is not agentgraph.search


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'agentgraph' has no attribute 'serach'; it has AgentGraphError, "):
        agentgraph.serach  # noqa: B018


def loaded(statement):
    """Which heavy packages a fresh process has loaded after a statement."""
    script = f"import sys; {statement}; print(*(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ran.stderr.split())


def test_import_is_light():
    assert loaded("import agentgraph") == set()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_help_is_light(arguments):
    statement = f"sys.argv[1:] = {arguments!r}; from agentgraph.cli import main; main()"
    assert loaded(statement) & {"torch", "openai", "hydra"} == set()


def test_show_is_light(tmp_path):
    from generators import random_plan_file

    random_plan_file(0).write(tmp_path / "plan.json")
    statement = f"sys.argv[1:] = ['show', 'plan={tmp_path}/plan.json']; from agentgraph.cli import main; main()"
    assert loaded(statement) & {"torch", "openai", "optuna"} == set()


def test_pick_needs_no_models(tmp_path):
    from test_pick import random_front

    random_front(0).write(tmp_path / "front.json")
    statement = f"sys.argv[1:] = ['pick', 'run={tmp_path}']; from agentgraph.cli import main; main()"
    assert loaded(statement) & {"torch", "openai", "optuna"} == set()
