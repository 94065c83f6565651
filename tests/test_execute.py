"""The executor: what runs when, what is asked only once, what is charged, and what a failure or a bad reply does."""

import asyncio
import gc
import random
import signal
import threading
import time
from dataclasses import replace

import pytest
from fakes import POOL, ROLES, Relay, Waves, backend, skilled
from spaces import random_tables

from agentgraph.backends.scripted import Scripted
from agentgraph.budget import Budget, Cost, Tokens
from agentgraph.errors import (
    BackendDown,
    BackendError,
    BackendMalformed,
    BackendOverloaded,
    BackendRefused,
    BackendTimeout,
    ConfigError,
    RunError,
    TaskError,
)
from agentgraph.execute import Deadlines, Executor, Job
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.node_run import sample_numbers
from agentgraph.plan import Plan
from agentgraph.request import Reply, Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.space import Space, StageSpace
from agentgraph.store import ReplyStore
from agentgraph.tasks.calc import Calc, CalcStage

TASK = Calc(sizes={"train": 40})
QUESTIONS = TASK.questions("train")
BY_NAME = {role.name: role for role in ROLES}
SMALL, LARGE = Node("assistant", "a-small"), Node("assistant", "a-large")
VOTE, FUSER, KEEP = Node("vote"), Node("fuser", "a-small"), Node("keep", "b-small")


def executor(served, *, task=TASK, pool=POOL, roles=ROLES, store=None, **settings):
    backends = served if isinstance(served, dict) else {"scripted": served}
    store = ReplyStore() if store is None else store
    return Executor(task, pool, {role.name: role for role in roles}, backends, store, **settings)


def star(sink, *sources):
    return Graph((*sources, sink), tuple((i, len(sources)) for i in range(len(sources))))


def chain(*nodes):
    return Graph(nodes, tuple((i, i + 1) for i in range(len(nodes) - 1)))


def answers(served, graphs, questions=QUESTIONS, **settings):
    with executor(served, **settings) as running:
        return running.run([Job(Plan((graph,)), questions) for graph in graphs])


def calc_plans(count, seed=0):
    """Random plans of the calc space with their prices."""
    stage = StageSpace("calc", ROLES, POOL, 8, CalcStage.lengths)
    space = Space((stage,), Budget(30 * stage.cheapest, stage.cheapest))
    plans = list(dict.fromkeys(random_tables(space, seed).sample(3 * count, seed)))[:count]
    assert len(plans) == count
    return [(plan, space.price(plan)) for plan in plans]


# ---- order


@pytest.mark.parametrize("seed", range(5))
def test_parents_before_children(seed):
    heard = []

    def script(request):
        text = request.messages[-1][1]
        heard.append((request.model, text))
        return Reply(f"{len(heard):03d}", len(text) + 1, 20, logprob=-1.0)

    graph = Graph(
        (SMALL, LARGE, Node("assistant", "b-small"), Node("fuser", "b-large")), ((0, 2), (1, 2), (1, 3), (2, 3))
    )
    answers(backend(script), [graph], QUESTIONS[seed : seed + 1])
    assert sorted(model for model, _ in heard[:2]) == ["a-large", "a-small"]
    assert [model for model, _ in heard[2:]] == ["b-small", "b-large"]
    said = {model: f"{i + 1:03d}" for i, (model, _) in enumerate(heard)}
    # each prompt lists its parents' answers in node order, each exactly once
    order = [graph.canonical.nodes[p].model for p in graph.canonical.parents[2]]
    assert heard[2][1].startswith("RC" + "".join(f"{said[m]}|" for m in order) + ":")
    order = [graph.canonical.nodes[p].model for p in graph.canonical.parents[3]]
    assert heard[3][1].startswith("FC" + "".join(f"{said[m]}|" for m in order) + ":")


def test_all_that_is_ready_runs_at_once():
    served = Waves()
    wide = star(VOTE, *[SMALL] * 3, *[LARGE] * 2)
    deep = chain(SMALL, SMALL, SMALL)
    mixed = Graph((SMALL, LARGE, FUSER, VOTE), ((0, 2), (1, 2), (2, 3), (0, 3)))
    answers(served, [wide, deep, mixed])
    # sources of 40 questions that differ between plans: 3 small and 2 large samples, shared by all three plans
    assert served.waves == [5 * 40, 2 * 40, 40]


def test_waves_are_the_longest_path_not_the_sum():
    for graph in (chain(*[SMALL] * 5), star(VOTE, *[SMALL] * 5), Graph((SMALL,) * 4, ((0, 1), (1, 3), (2, 3)))):
        served = Waves()
        answers(served, [graph])
        calls = [node for node in graph.nodes if node.model]
        assert len(served.waves) == graph.depth - (len(calls) < len(graph.nodes))
        assert sum(served.waves) == len(calls) * 40


def test_a_slow_question_holds_up_nobody():
    """The first question's first call waits for the last call of all others: no level, no batch in between."""
    graph = chain(SMALL, LARGE, Node("assistant", "b-large"))
    state = {"done": 0}

    async def script(request):
        text = request.messages[-1][1]
        start = QUESTIONS[0].text.split("*")[-1]
        slow = text.endswith(start) and sorted(text.split(":")[1]) == sorted(QUESTIONS[0].text)
        if slow and request.model == "a-small":
            async with asyncio.timeout(20):
                while state["done"] < len(QUESTIONS) - 1:
                    await asyncio.sleep(0.001)
        state["done"] += request.model == "b-large"
        return skilled(request)

    answers(backend(script), [graph])
    assert state["done"] == len(QUESTIONS)


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_limit_of_each_backend(limit):
    most = {"one": 0, "two": 0}
    now = {"one": 0, "two": 0}

    def counting(name):
        async def script(request):
            now[name] += 1
            most[name] = max(most[name], now[name])
            await asyncio.sleep(0.001)
            now[name] -= 1
            return skilled(request)

        return script

    pool = Pool(
        [
            Model("a-small", 1e5, backend="one", prompt_form="embedded"),
            Model("a-large", 1e6, backend="two", prompt_form="embedded"),
        ]
    )
    served = {
        "one": backend(counting("one"), name="one", limit=limit),
        "two": backend(counting("two"), name="two", limit=9),
    }
    answers(served, [star(VOTE, SMALL, SMALL, LARGE)], QUESTIONS[:20], pool=pool)
    assert most == {"one": min(limit, 40), "two": 9}


# ---- the same request is made once


def test_same_request_in_flight_is_made_once():
    served = Waves()
    graphs = [star(VOTE, *[SMALL] * n) for n in (1, 2, 3)]
    with executor(served) as running:
        rows = running.run([Job(Plan((graph,)), QUESTIONS) for graph in graphs])
        assert (running.counts.asked, running.counts.made) == (6 * 40, 3 * 40)
        assert served.waves == [3 * 40]
        # asked again: nothing new; another replicate: everything
        running.run([Job(Plan((graphs[2],)), QUESTIONS)])
        assert running.counts.made == 3 * 40
        running.run([Job(Plan((graphs[2],)), QUESTIONS, replicate=1)])
        assert running.counts.made == 6 * 40
    for n, row in enumerate(rows, start=1):  # charged as if each had paid for all its calls
        assert {answer.charge.calls for answer in row} == {n}
        assert row[0].charge.flops == pytest.approx(n * rows[0][0].charge.flops)


def test_replies_come_from_the_store(tmp_path):
    store = ReplyStore(tmp_path / "replies.jsonl")
    first = answers(backend(), [star(VOTE, SMALL, LARGE, SMALL)], store=store)
    store.close()

    def nobody(request):
        raise AssertionError(request)

    store = ReplyStore(tmp_path / "replies.jsonl")
    assert answers(backend(nobody), [star(VOTE, SMALL, LARGE, SMALL)], store=store) == first
    store.close()


def test_replies_are_acknowledged_as_they_come(tmp_path):
    """When the event loop has turned once, the reply that a call followed is on disk."""
    path = tmp_path / "replies.jsonl"

    async def script(request):
        await asyncio.sleep(0)
        if request.messages[-1][1][0] == "R":
            assert path.read_bytes().count(b"\n") >= 1
        return skilled(request)

    store = ReplyStore(path)
    answers(backend(script), [chain(SMALL, LARGE)], store=store)
    store.close()
    assert path.read_bytes().count(b"\n") == 80


def test_at_temperature_zero_samples_are_the_same_unless_the_view_differs():
    greedy = Node("assistant_greedy", "a-small")
    with executor(backend()) as running:
        running.run([Job(Plan((star(VOTE, greedy, greedy, greedy),)), QUESTIONS)])
        made = running.counts.made
    assert made == pytest.approx(120, abs=12)  # three views of each question; two may be equal by accident
    relay = {"scripted": Scripted(lambda request: request.messages[-1][1].upper(), has_logprobs=True)}
    with executor(relay, task=Relay(), pool=Pool([Model("m", 1e6, backend="scripted")])) as running:
        node = Node("assistant_greedy", "m")
        running.run([Job(Plan((star(VOTE, node, node), Graph((node,)))), Relay().questions("test"))])
        assert running.counts.made == 80
        assert running.counts.asked == 120


# ---- sample numbers and views


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (star(VOTE, SMALL, SMALL, SMALL), [{"solve": 0}, {"solve": 1}, {"solve": 2}, {}]),
        (star(VOTE, SMALL, LARGE, SMALL), [{"solve": 0}, {"solve": 0}, {"solve": 1}, {}]),
        # a keep's own attempt is one more solve of its model; the settings of both are the same
        (star(KEEP, Node("assistant", "b-small")), [{"solve": 0}, {"solve": 1}]),
        # refining and solving count apart; a refiner whose parents are all absent solves as a sample of its own
        (chain(SMALL, SMALL, SMALL), [{"solve": 0}, {"refine": 0, "solve": 4}, {"refine": 1, "solve": 5}]),
        (star(VOTE, SMALL, Node("assistant_greedy", "a-small")), [{"solve": 0}, {"solve": 0}, {}]),
    ],
)
def test_sample_numbers(graph, expected):
    assert sample_numbers(graph, BY_NAME) == expected


@pytest.mark.parametrize("seed", range(50))
def test_result_does_not_depend_on_how_nodes_are_numbered(seed):
    ((plan, _),) = calc_plans(1, seed)
    graph = plan.stages[0]
    order = random.Random(seed).sample(range(len(graph.nodes)), len(graph.nodes))
    nodes = [graph.nodes[i] for i in order]
    edges = [(order.index(i), order.index(j)) for i, j in graph.edges]
    again = Graph.from_any_order(nodes, edges)
    with executor(backend()) as running:
        one = running.run([Job(Plan((graph,)), QUESTIONS[:3])])
        made = running.counts.made
        assert running.run([Job(Plan((again,)), QUESTIONS[:3])]) == one
        assert running.counts.made == made


def test_views_differ_by_sample_and_not_by_what_finishes_first():
    def views(delay):
        seen = {}

        async def script(request):
            await asyncio.sleep(delay.random() * 0.01)
            seen[request.key] = request.messages[-1][1]
            return skilled(request)

        answers(backend(script), [star(VOTE, *[SMALL] * 6)], QUESTIONS[:8])
        return seen

    one, two = views(random.Random(1)), views(random.Random(2))
    assert one == two
    assert len(set(one.values())) > 32  # six views of each of eight questions, some equal by accident
    assert list(one) != list(two)


@pytest.mark.parametrize("seed", range(3))
def test_result_does_not_depend_on_the_order_of_replies(seed):
    plans = [plan for plan, _ in calc_plans(12, seed)]
    odd = Pool([Model(m.name, m.parameters + 0.1, m.layers, m.hidden_size, "scripted", None, "embedded") for m in POOL])

    def run(delays):
        async def script(request):
            await asyncio.sleep(delays.random() * 0.005)
            return skilled(request)

        with executor(backend(script, limit=50), pool=odd) as running:
            return running.run([Job(plan, QUESTIONS[:10]) for plan in plans])

    assert run(random.Random(seed)) == run(random.Random(100 + seed))


def test_runs_of_different_seeds_differ():
    one, two = (answers(backend(), [Graph((SMALL,))], seed=seed) for seed in (0, 1))
    assert one != two
    assert one == answers(backend(), [Graph((SMALL,))], seed=0)


# ---- price and charge


def test_price_is_charge_with_exact_lengths():
    plans = calc_plans(200)
    with executor(backend()) as running:
        rows = running.run([Job(plan, QUESTIONS[:2]) for plan, _ in plans])
    for (_, price), row in zip(plans, rows, strict=True):
        for answer in row:
            assert answer.charge.flops == pytest.approx(price.flops, rel=1e-12)
            charge = answer.charge
            assert (charge.calls, charge.prompt_tokens, charge.output_tokens) == (
                price.calls,
                price.prompt_tokens,
                price.output_tokens,
            )


def test_stages_hand_on_their_answer():
    pool = Pool([Model("m", 1e6, backend="scripted")])
    with executor(Scripted(lambda r: r.messages[-1][1].upper()), task=Relay(), pool=pool) as running:
        node = Graph((Node("assistant", "m"),))
        (row,) = running.run([Job(Plan((node, node)), Relay().questions("test"))])
    assert [answer.mark for answer in row] == [1.0] * 40
    assert row[3].text == "TE3!"
    assert row[3].charge.calls == 2


# ---- outcomes of the model


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply("", 22, 1), "empty"),
        (Reply(" \n", 22, 2), "empty"),
        (Reply("12", 22, 20, finish="length"), "cut"),
        (Reply("no idea", 22, 7), "unparseable"),
        (Reply("\ud800", 22, 1), "unparseable"),
    ],
)
def test_bad_reply_is_asked_once_more_then_marked_zero(reply, kind):
    served = backend([reply, reply])
    (row,) = answers(served, [Graph((SMALL,))], QUESTIONS[:1])
    assert row[0].mark == 0.0
    assert row[0].outcomes == {kind: 1}
    assert row[0].text == ""
    once = Cost.of_call(POOL[0].size, Tokens(reply.prompt_tokens, reply.output_tokens))
    assert replace(row[0].charge, tts_units=0.0) == replace(once + once, tts_units=0.0)
    prompt = Cost.of_call(POOL[0].size, Tokens(reply.prompt_tokens, 0))
    assert row[0].charge.tts_units == pytest.approx(
        2 * once.tts_units - prompt.tts_units - 2
    )  # one prompt, encoded once
    assert served.calls == 2


def test_second_try_may_succeed():
    gold = QUESTIONS[0].gold
    seeds = []

    def script(request):
        seeds.append(request.seed)
        return Reply("" if request.attempt == 0 else gold, 22, 3)

    (row,) = answers(backend(script), [Graph((SMALL,))], QUESTIONS[:1])
    assert row[0].mark == 1.0
    assert row[0].outcomes == {}
    assert row[0].charge.calls == 2
    assert len(set(seeds)) == 2


def test_bad_replies_are_stored(tmp_path):
    store = ReplyStore(tmp_path / "replies.jsonl")
    answers(backend(lambda _: Reply("?", 1, 1)), [Graph((SMALL,))], store=store)
    assert len(store) == 80
    store.close()


def test_absent_messages_take_no_part_in_votes():
    gold = QUESTIONS[0].gold

    def script(request):
        return Reply(gold if request.model == "a-large" else "none", 22, 3)

    (voted,), (alone,) = answers(
        backend(script), [star(VOTE, SMALL, SMALL, SMALL, LARGE), star(VOTE, SMALL)], QUESTIONS[:1]
    )
    assert (voted.mark, voted.outcomes) == (1.0, {"unparseable": 3})
    assert (alone.mark, alone.text) == (0.0, "")


def test_fuser_without_candidates_solves():
    words = []

    def script(request):
        words.append(request.messages[-1][1][0])
        return Reply("none" if len(words) <= 2 else "123", 22, 3)

    (row,) = answers(backend(script), [chain(SMALL, FUSER)], QUESTIONS[:1])
    assert words == ["S", "S", "S"]
    assert row[0].text == "123"


# ---- failures of the service


def test_failures_are_retried_and_then_forgotten():
    failures = [BackendOverloaded("busy"), BackendTimeout("late")]

    def script(request):
        if failures:
            raise failures.pop()
        return skilled(request)

    with executor(backend(script)) as running:
        (row,) = running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[:2])])
        assert (running.counts.failed, running.counts.made) == (0, 2)
    assert all(answer.mark is not None for answer in row)
    assert {answer.charge.calls for answer in row} == {1}


def test_failed_questions_are_not_marked_and_never_stored():
    bad = {q.id: sorted(q.text) for q in QUESTIONS[10:12]}

    def script(request):
        if sorted(request.messages[-1][1].split(":")[1]) in bad.values():
            raise BackendError("lost", retry=False)
        return skilled(request)

    with executor(backend(script)) as running:
        (row,) = running.run([Job(Plan((star(VOTE, SMALL, LARGE),)), QUESTIONS)])
        assert len(running.store) == running.counts.made
        assert running.counts.failed >= 2
    assert {answer.question for answer in row if answer.mark is None} == set(bad)
    assert all(answer.charge == Cost() for answer in row if answer.mark is None)


def test_too_many_failures_stop_the_run(tmp_path):
    def script(request):
        if request.sample == 1 and request.seed % 4 == 0:
            raise BackendError("lost", retry=False)
        return skilled(request)

    store = ReplyStore(tmp_path / "replies.jsonl")
    questions = Calc(sizes={"train": 400}).questions("train")
    with executor(backend(script, limit=8), store=store) as running:
        with pytest.raises(
            BackendError, match=r"\d+ of \d+ calls failed after retries, more than the 5% allowed; the last: lost"
        ):
            running.run([Job(Plan((star(VOTE, SMALL, SMALL),)), questions)])
        stored = len(store)
        assert stored > 20
    store.close()
    assert (tmp_path / "replies.jsonl").read_bytes().count(b"\n") == stored


def test_a_share_of_failures_is_allowed():
    def script(request):
        if request.seed % 4 == 0:
            raise BackendError("lost", retry=False)
        return skilled(request)

    questions = Calc(sizes={"train": 400}).questions("train")
    (row,) = answers(backend(script), [Graph((SMALL,))], questions, failure_share=0.4)
    assert 60 < sum(answer.mark is None for answer in row) < 140


def test_refused_at_the_start_stops_at_once():
    calls = []

    def script(request):
        calls.append(request)
        raise BackendRefused("http://127.0.0.1:9/v1 does not listen; start the server")

    with pytest.raises(BackendRefused, match="127.0.0.1:9/v1 does not listen"):
        answers(backend(script, limit=4), [Graph((SMALL,))], Calc(sizes={"train": 2000}).questions("train"))
    assert len(calls) <= 8


def test_a_failure_in_one_plan_leaves_the_others_their_replies():
    """Two plans share a call; one of them is given up while the call is in flight."""
    asked = []

    async def script(request):
        if request.model == "a-large":
            raise BackendError("lost", retry=False)
        asked.append(request)
        await asyncio.sleep(0.05)
        return skilled(request)

    failing, sharing = star(VOTE, SMALL, LARGE), star(VOTE, SMALL, Node("assistant", "b-small"))
    with executor(backend(script)) as running:
        running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[-1:])])  # so that it is known to be there
        one, two = running.run([Job(Plan((graph,)), QUESTIONS[:10]) for graph in (failing, sharing)])
    assert [answer.mark for answer in one] == [None] * 10
    assert all(answer.mark is not None for answer in two)
    assert len(asked) == 21


def test_bug_in_a_backend_is_not_hidden():
    def script(_):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        answers(backend(script), [star(VOTE, SMALL, SMALL)])


def test_full_disk_stops_the_run():
    class Full(ReplyStore):
        said = False

        def flush(self):
            if len(self) and not self.said:  # as the real one: it says so once, then keeps replies in memory
                self.said = True
                raise RunError("cannot write the reply store: No space left on device")

    with pytest.raises(RunError, match="No space left"):
        answers(backend(), [Graph((SMALL,))], QUESTIONS[:1], store=Full())


# ---- seams


def test_model_without_its_backend():
    with pytest.raises(
        ConfigError, match="model 'a-small' names the backend 'scripted', which is not there; there are: x"
    ):
        executor({"x": backend(name="x")})


def test_works_inside_a_running_event_loop():
    async def notebook():
        return answers(backend(), [Graph((SMALL,))], QUESTIONS[:3])

    assert asyncio.run(notebook()) == answers(backend(), [Graph((SMALL,))], QUESTIONS[:3])


def test_closing_ends_the_thread_and_the_backends():
    class Closing(Waves):
        closed = 0

        async def close(self):
            self.closed += 1

    served = Closing()
    before = set(threading.enumerate())
    running = executor(served)
    running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[:1])])
    running.close()
    running.close()
    assert served.closed == 1
    assert not set(threading.enumerate()) - before


def test_no_questions_and_no_jobs():
    with executor(backend()) as running:
        assert running.run([]) == []
        assert running.run([Job(Plan((Graph((SMALL,)),)), [])]) == [[]]


def test_roles_of_a_job_come_before_those_of_the_search():
    limits = []

    def script(request):
        limits.append(request.settings)
        return skilled(request)

    own = Assistant(name="assistant", settings=Settings(temperature=0.25, max_tokens=20))
    with executor(backend(script)) as running:
        running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[:1], roles={"assistant": own})])
        running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[:1])])
    assert limits == [Settings(0.25, 1.0, 20), Settings(1.0, 1.0, 20)]


# ---- dollars and seconds


def test_seconds_are_those_of_the_longest_path_and_dollars_add_up():
    rates = {"usd": {"output_token": 1e-3}, "seconds": {"call": 1.0}}
    pool = Pool(
        [Model(name, 1e6, backend="scripted", prompt_form="embedded", **rates) for name in ("a-small", "b-small")]
    )
    quick, slow = Node("assistant", "a-small"), Node("assistant", "b-small")

    def script(request):
        text = request.messages[-1][1]
        return Reply("042", len(text) + 1, 20, logprob=-1.0, seconds=5.0 if request.model == "b-small" else None)

    # quick -> keep by a-small -> vote; slow -> vote
    graph = Graph((quick, Node("keep", "a-small"), slow, Node("vote")), ((0, 1), (1, 3), (2, 3)))
    (row,) = answers(backend(script), [graph], QUESTIONS[:3], pool=pool)
    assert [answer.charge.seconds for answer in row] == [5.0] * 3
    (row,) = answers(backend(script), [chain(quick, slow)], QUESTIONS[:1], pool=pool)
    assert row[0].charge.seconds == 6.0
    assert row[0].charge.usd == pytest.approx(2 * 20 * 1e-3)
    stage = StageSpace("calc", ROLES, pool, 8, CalcStage.lengths)
    assert stage.price(graph).seconds == 2.0  # by the models' rates
    assert stage.price(graph).usd == pytest.approx(3 * 20 * 1e-3)


# ---- a server that misbehaves


def test_failures_and_retries_are_counted_by_kind():
    seen, given_up = set(), set()

    def script(request):
        if request.seed % 3 == 0 and request.key not in seen:
            seen.add(request.key)
            raise BackendMalformed("HTML")
        if request.seed % 20 == 1:
            given_up.add(request.key)
            raise BackendDown("lost", retry=False)
        return skilled(request)

    with executor(backend(script), failure_share=1.0) as running:
        running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[-1:])])  # so that it is known to be there
        running.run([Job(Plan((star(VOTE, *[SMALL] * 3),)), QUESTIONS)])
        assert running.counts.retries == {"malformed": len(seen), "down": 0}
        assert running.counts.failures == {"down": len(given_up)}
        assert running.counts.failed == len(given_up) > 0


def test_a_server_that_goes_away_and_comes_back_costs_nothing():
    calls, gone = [], []

    async def script(request):
        calls.append(request)
        await asyncio.sleep(0.001)
        if len(calls) > 50:
            gone.append(time.monotonic())
            if time.monotonic() < gone[0] + 1.2:
                raise BackendDown("connection reset")
        return skilled(request)

    with executor(backend(script, limit=16)) as running:
        (row,) = running.run([Job(Plan((star(VOTE, *[SMALL] * 4),)), QUESTIONS)])
        assert running.counts.failed == 0
        assert running.counts.retries["down"] < 16 + 4 + 4  # what was in flight, and a few trials
    assert all(answer.mark is not None for answer in row)


def test_a_server_that_stays_away_stops_the_run():
    state = {"calls": 0}

    def script(request):
        state["calls"] += 1
        if state["calls"] > 50:
            raise BackendDown("connection reset")
        return skilled(request)

    store = ReplyStore()
    with (
        pytest.raises(
            BackendDown, match=r"away for .* longer than outage=0.3 allows; the last: connection reset; .* run="
        ),
        executor(backend(script, limit=16), outage=0.3, store=store) as running,
    ):
        running.run([Job(Plan((star(VOTE, *[SMALL] * 4),)), QUESTIONS)])
    assert len(store) == 50
    assert state["calls"] < 50 + 16 + 4


def test_a_server_that_takes_few_at_once_is_not_given_more_for_long():
    now = {"in": 0, "refused": 0}

    async def script(request):
        now["in"] += 1
        try:
            if now["in"] > 8:
                now["refused"] += 1
                raise BackendOverloaded("429")
            await asyncio.sleep(0.002)
            return skilled(request)
        finally:
            now["in"] -= 1

    questions = Calc(sizes={"train": 400}).questions("train")
    with executor(backend(script, limit=256)) as running:
        (row,) = running.run([Job(Plan((star(VOTE, SMALL, LARGE),)), questions)])
        assert running.counts.failed == 0
        assert running.counts.retries == {"overloaded": now["refused"]}
    assert all(answer.mark is not None for answer in row)
    assert now["refused"] < 0.7 * 800 + 256


def test_a_straggler_is_sent_again_and_the_first_reply_counts():
    seen = {}

    async def script(request):
        seen[request.key] = seen.get(request.key, 0) + 1
        stuck = len(seen) == 150 and seen[request.key] == 1
        await asyncio.sleep(600 if stuck else 0.01)
        return skilled(request)

    served = backend(script, limit=64)
    served.redundant = True
    with executor(served) as running:
        (row,) = running.run([Job(Plan((star(VOTE, *[SMALL] * 5),)), QUESTIONS)])
        assert running.counts.doubled == 1
        assert running.counts.made == 200
    assert row == answers(backend(), [star(VOTE, *[SMALL] * 5)])[0]


# ---- deadlines


def seconds_of(request):
    return 5.0 if request.model == "a-large" else 1.0


def timed(request):
    return replace(skilled(request), seconds=seconds_of(request))


@pytest.mark.parametrize(
    ("deadlines", "graph", "late"),
    [
        (Deadlines(node=2.0), star(VOTE, SMALL, LARGE), {"late": 1}),
        (Deadlines(node=2.0), Graph((LARGE,)), {"late": 1}),
        (Deadlines(node=6.0), star(VOTE, SMALL, LARGE), {}),
        (Deadlines(question=3.5), chain(SMALL, SMALL, SMALL), {}),
        (Deadlines(question=2.5), chain(SMALL, SMALL, SMALL), {"late": 1}),
        (Deadlines(question=6.5), chain(SMALL, LARGE, SMALL), {"late": 1}),
        (Deadlines(question=7.5, node=6.0), chain(SMALL, LARGE, SMALL), {}),
    ],
)
def test_deadlines_by_the_seconds_of_replies(deadlines, graph, late):
    """What is stored decides, so that a run that goes on sees the same."""
    store = ReplyStore()
    first = answers(backend(timed), [graph], QUESTIONS[:4], deadlines=deadlines, store=store)
    assert [answer.outcomes for answer in first[0]] == [late] * 4
    if late and graph.nodes[-1].role != "vote":
        assert [answer.mark for answer in first[0]] == [0.0] * 4
    assert answers(backend(timed), [graph], QUESTIONS[:4], deadlines=deadlines, store=store) == first


def test_a_call_that_hangs_is_not_waited_for():
    async def script(request):
        if request.model == "a-large":
            await asyncio.sleep(600)
        return skilled(request)

    with executor(backend(script), deadlines=Deadlines(node=0.1)) as running:
        (row,) = running.run([Job(Plan((star(VOTE, SMALL, LARGE),)), QUESTIONS[:4])])
        assert running.counts.late == 4
        assert running.counts.failed == 0
    assert [answer.outcomes for answer in row] == [{"late": 1}] * 4
    assert [answer.charge.calls for answer in row] == [2] * 4
    assert row[0].charge.seconds >= 0.1


def test_time_in_line_does_not_count():
    async def script(request):
        await asyncio.sleep(0.03)
        return skilled(request)

    (row,) = answers(backend(script, limit=1), [Graph((SMALL,))], QUESTIONS[:20], deadlines=Deadlines(node=0.2))
    assert all(not answer.outcomes for answer in row)


@pytest.mark.parametrize("value", [0, -1, "soon", float("inf")])
def test_deadlines_that_are_none(value):
    with pytest.raises(ConfigError, match=r"deadline.node=.* must be a positive number of seconds, or null to wait"):
        Deadlines(node=value)


# ---- reasoning


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>is it 111? no</think>\n\n042", "042"),
        ("is it 111? no</think>042", "042"),  # the template opened the tag
        ("042", "042"),
        ("<think>a</think>b<think>c</think>042", "042"),
    ],
)
def test_the_answer_comes_after_the_reasoning(text, answer):
    (row,) = answers(backend(lambda _: Reply(text, 9, 9, reasoning_tokens=4)), [Graph((SMALL,))], QUESTIONS[:1])
    assert row[0].text == answer
    with executor(backend(lambda _: Reply(text, 9, 9, reasoning_tokens=4))) as running:
        running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[:3])])
        assert running.counts.reasoning_tokens == 12


def test_reasoning_that_is_cut_is_no_answer():
    cut = Reply("<think>is it 042 or 043? Perhaps 042", 9, 99, finish="length")
    (row,) = answers(backend([cut, cut]), [Graph((SMALL,))], QUESTIONS[:1])
    assert (row[0].mark, row[0].outcomes, row[0].text) == (0.0, {"cut": 1}, "")


# ---- stopping


def interrupted(running, jobs, when, times=1):
    """Run jobs in this thread and raise KeyboardInterrupt in it, as Ctrl-C does, once ``when`` is set."""

    def press():
        for _ in range(times):
            assert when.wait(20)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.2)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        running.run(jobs)


def test_the_first_interrupt_waits_for_what_is_in_flight(caplog):
    started, calls = threading.Event(), []

    async def script(request):
        calls.append(request.key)
        if len(calls) == 8:
            started.set()
        for _ in range(2000):  # no reply comes before the interrupt has been noticed
            if caplog.messages:
                break
            await asyncio.sleep(0.01)
        return skilled(request)

    with executor(backend(script, limit=8)) as running:
        interrupted(running, [Job(Plan((star(VOTE, SMALL, SMALL),)), QUESTIONS)], started)
        assert sorted(calls) == sorted(key for key in calls if key in running.store)
        assert len(running.store) == 8  # all that was sent, and nothing more was
    assert "waiting for" in caplog.text
    assert "Ctrl-C again stops at once" in caplog.text


def test_the_second_interrupt_stops_at_once():
    started = threading.Event()

    async def script(request):
        started.set()
        await asyncio.sleep(600)
        return skilled(request)

    with executor(backend(script, limit=8)) as running:
        interrupted(running, [Job(Plan((Graph((SMALL,)),)), QUESTIONS)], started, times=2)
        assert len(running.store) == 0


# ---- ahead of a decision


def test_what_is_begun_ahead_goes_on_and_what_is_dropped_is_cancelled():
    """The second jobs find their calls made; those of a plan that is not asked for again were cancelled."""
    log = {"asked": [], "cancelled": 0}

    async def script(request):
        log["asked"].append((request.model, request.key))
        try:
            await asyncio.sleep(600 if request.model == "b-small" else 0.002)
        except asyncio.CancelledError:
            log["cancelled"] += 1
            raise
        return skilled(request)

    one, two = Plan((star(VOTE, SMALL, LARGE),)), Plan((star(VOTE, SMALL, Node("assistant", "b-small")),))
    first, second = QUESTIONS[:4], QUESTIONS[4:12]
    with executor(backend(script)) as running:
        running.run([Job(one, first)], [Job(one, second), Job(two, second)])
        while sum(model == "a-large" for model, _ in log["asked"]) < 12:
            time.sleep(0.001)
        assert running.counts.asked == 8
        rows = running.run([Job(one, second)])
        assert log["cancelled"] == 8
        assert running.counts.asked == 8 + 16
        asked = [entry for entry in log["asked"] if entry[0] != "b-small"]
        assert len(asked) == len(set(asked)) == running.counts.made == 24
    assert rows == answers(backend(), [one.stages[0]], second)


def test_a_plan_that_is_dropped_does_not_take_along_the_nodes_that_others_share():
    """Both plans wait for the same node when the second is dropped; it replies only once the next jobs have begun."""
    one, two = Plan((star(VOTE, SMALL, LARGE),)), Plan((star(VOTE, SMALL, Node("assistant", "b-small")),))
    first, second, third = QUESTIONS[:2], QUESTIONS[2:8], QUESTIONS[8:12]
    begun = asyncio.Event()

    def factors(text):  # every call sees them in an order of its own
        return sorted(text.split("*"))

    async def script(request):
        asked = factors(request.messages[-1][1].split(":")[1])
        if asked in [factors(question.text) for question in third]:
            begun.set()
        elif request.model == "a-small" and asked in [factors(question.text) for question in second]:
            await begun.wait()
        return skilled(request)

    with executor(backend(script, limit=64)) as running:
        running.run([Job(one, first)], [Job(one, second), Job(two, second)])
        rows = running.run([Job(one, [*second, *third])])
    assert rows == answers(backend(), [one.stages[0]], [*second, *third])


def test_what_is_begun_ahead_ends_with_the_executor():
    async def script(request):
        await asyncio.sleep(0 if request.model == "a-small" else 600)
        return skilled(request)

    with executor(backend(script)) as running:
        running.run([Job(Plan((Graph((SMALL,)),)), QUESTIONS[:2])], [Job(Plan((Graph((LARGE,)),)), QUESTIONS[:2])])
    assert len(running.store) == 2


def test_a_backend_that_must_be_started_first_is_and_that_is_no_node_s_time():
    class Slow(Scripted):
        started = 0

        async def ready(self):
            self.started += 1
            await asyncio.sleep(0.4)

        async def reply(self, request):
            assert self.started
            return await super().reply(request)

    served = Slow(skilled, limit=4, has_logprobs=True)
    (row,) = answers(served, [Graph((SMALL,))], QUESTIONS[:12], deadlines=Deadlines(node=0.2))
    assert all(not answer.outcomes for answer in row)
    assert 1 <= served.started <= 4


def test_what_many_nodes_raise_is_raised_once_and_printed_nowhere(caplog):
    async def script(_):
        await asyncio.sleep(0.01)
        raise TaskError("the model cannot be asked this")

    def refused():  # a function of its own: what it holds is gone afterwards
        with executor(backend(script)) as running, pytest.raises(TaskError, match="cannot be asked this"):
            running.run(
                [Job(Plan((graph,)), QUESTIONS) for graph in (star(VOTE, SMALL, LARGE), star(VOTE, LARGE, SMALL))]
            )

    refused()
    gc.collect()
    assert "cannot be asked this" not in caplog.text
