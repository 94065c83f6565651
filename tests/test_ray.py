"""The whole loop over a real Ray: the archive is that of the search alone, whatever dies. `.ci/ray.sh` runs it."""

import asyncio
import importlib.util
import os
import sys
import uuid
from functools import partial
from pathlib import Path

import pytest

from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.ray_cluster import Cluster
from agentgraph.cli import main
from agentgraph.config import load_models
from agentgraph.errors import BackendOverloaded, BackendRefused, TaskError
from agentgraph.execute import Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.plan import Plan
from agentgraph.request import Request, Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.store import ReplyStore
from agentgraph.tasks.calc import Calc

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason='Ray is not installed; pip install "agentgraph[ray]"'
    ),
    # Ray leaves files and processes to the collector, and warns of what it will do one day.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
]
SMALL = ["task=calc", "rounds=2", "plans_per_round=4", "questions_per_round=16", "finalists=1", "race=false"]
SMALL += ["task.sizes={train: 32, validation: 8, test: 8}"]


class Mortal(Embedded):
    """Takes its process along once, at the hundredth request, and leaves a note that it did."""

    def __init__(self, name="embedded", *, note=None):
        super().__init__(name)
        self.note, self.asked = note, 0

    async def reply(self, request):
        self.asked += 1
        if self.asked == 100 and not self.note.exists():
            self.note.write_text(str(os.getpid()))
            os._exit(1)
        return await super().reply(request)


class Failing(Embedded):
    """Fails as the question says."""

    async def reply(self, request):
        raise {
            "overloaded": BackendOverloaded("slowly", retry_after=3.0),
            "refused": BackendRefused("not here"),
            "task": TaskError("what a question"),
        }[request.messages[-1][1]]


@pytest.fixture(scope="module", autouse=True)
def _environment():
    """One environment for all that is started here, set before Ray is imported: it keeps the token that it finds first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))  # for the backends above
        yield


@pytest.fixture(scope="module")
def address():
    """The address of a cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes.address
    nodes.shutdown()


def initialized():
    import ray

    return ray.is_initialized()


def agentgraph(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["agentgraph", "search", *arguments])
    main()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder of the search by this process alone."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        agentgraph(patch, *SMALL, f"hydra.run.dir={folder}")
    return folder


def test_same_archive_over_two_workers_and_after_going_on(alone, address, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    agentgraph(monkeypatch, *SMALL, f"hydra.run.dir={folder}", "cluster=ray", f"cluster.address={address}")
    assert (folder / "trials.jsonl").read_bytes() == (alone / "trials.jsonl").read_bytes()
    assert (folder / "best.json").read_bytes() == (alone / "best.json").read_bytes()
    assert sorted((folder / "replies.jsonl").read_bytes().splitlines()) == sorted(
        (alone / "replies.jsonl").read_bytes().splitlines()
    )
    assert not initialized()
    agentgraph(monkeypatch, f"run={folder}", "rounds=3", "cluster.workers=1")  # on the cluster that it was told of
    agentgraph(monkeypatch, f"run={alone}", "rounds=3")
    assert (folder / "trials.jsonl").read_bytes() == (alone / "trials.jsonl").read_bytes()


def test_ray_on_this_machine_is_started_and_stopped(alone, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    agentgraph(monkeypatch, *SMALL, f"hydra.run.dir={folder}", "cluster=ray", "rounds=1")
    rows = (folder / "trials.jsonl").read_bytes().splitlines()
    assert rows == (alone / "trials.jsonl").read_bytes().splitlines()[: len(rows)]
    assert not initialized()


def test_nothing_is_lost_with_a_worker_that_is_killed(address, tmp_path):
    pool, here = load_models("embedded")
    task, note = Calc(sizes={"train": 200, "validation": 8, "test": 8}), tmp_path / "note"
    plan = Plan((Graph(tuple(Node("assistant", name) for name in pool.names[:2]), ((0, 1),)),))
    job = Job(plan, task.questions("train"))
    answers, counts = [], []
    for backends in (here, Cluster(address=address).spread({"embedded": partial(Mortal, note=note)})):
        with Executor(task, pool, {"assistant": Assistant(name="assistant")}, backends, ReplyStore()) as executor:
            answers.append(executor.run([job]))
            counts.append(executor.counts)
    assert note.exists()
    assert answers[0] == answers[1]
    assert counts[0].made == counts[1].made >= 400
    assert counts[1].failed == sum(counts[1].retries.values()) == 0


@pytest.mark.parametrize(
    ("word", "kind", "told"),
    [
        ("overloaded", BackendOverloaded, {"retry": True, "retry_after": 3.0}),
        ("refused", BackendRefused, {"retry": False}),
        ("task", TaskError, {}),
    ],
)
def test_errors_come_back_as_they_are(address, word, kind, told):
    backend = Cluster(address=address, workers=1).spread({"b": partial(Failing, "b")})["b"]

    async def failed():
        try:
            await backend.reply(
                Request("a-small", backend.fingerprint("a-small"), (("user", word),), Settings(max_tokens=1))
            )
        finally:
            await backend.close()

    with pytest.raises(kind) as caught:
        asyncio.run(failed())
    assert vars(caught.value) == told


def test_workers_are_on_both_nodes(address):
    cluster = Cluster(address=address)
    backend = cluster.spread({"embedded": Embedded})["embedded"]

    def node(worker):
        import ray

        del worker
        return ray.get_runtime_context().get_node_id()

    async def nodes():
        try:
            assert "a-small" in await backend.served()
            where = [link.actor.__ray_call__.remote(node) for link in cluster._links]
            return {await one for one in where}
        finally:
            await backend.close()

    assert len(asyncio.run(nodes())) == 2
