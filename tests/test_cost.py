"""Prices against the numbers that the cost models of Agent-REINFORCE and AgentTTS give by hand, and bad sizes and rates."""

import pytest

from agentgraph.budget import Cost, Size, Tokens, flops, total, tts_cost, tts_samples, tts_units
from agentgraph.errors import BudgetError
from agentgraph.graph import Graph, Node
from agentgraph.model import Model, Pool
from agentgraph.roles.assistant import Assistant
from agentgraph.space import StageSpace
from agentgraph.tasks.base import Lengths

SIZES = {
    "1B": Size(1e9, 16, 2048),
    "3B": Size(3e9, 28, 3072),
    "8B": Size(8e9, 32, 4096),
    "70B": Size(70e9, 80, 8192),
}
LENGTHS = {"MATH": (202, 275), "MMLU": (213, 215), "HumanEval": (180, 115)}
UNITS = {"MATH": 9.6894e11, "MMLU": 8.6803e11, "HumanEval": 5.9572e11}
IN_DEGREES = (0, 1, 2, 3, 4, 8)
IN_UNITS = {
    ("MATH", "1B"): (1.00, 1.59, 2.19, 2.80, 3.42, 6.01),
    ("MATH", "3B"): (2.99, 4.76, 6.55, 8.36, 10.21, 17.85),
    ("MATH", "8B"): (7.94, 12.57, 17.24, 21.96, 26.71, 46.14),
    ("MATH", "70B"): (69.23, 109.42, 149.82, 190.42, 231.22, 396.49),
    ("MMLU", "1B"): (1.00, 1.51, 2.03, 2.56, 3.09, 5.30),
    ("MMLU", "3B"): (2.99, 4.53, 6.08, 7.65, 9.23, 15.76),
    ("MMLU", "8B"): (7.94, 11.98, 16.04, 20.13, 24.24, 40.99),
    ("MMLU", "70B"): (69.31, 104.33, 139.49, 174.80, 210.24, 353.41),
    ("HumanEval", "1B"): (1.00, 1.40, 1.79, 2.19, 2.60, 4.24),
    ("HumanEval", "3B"): (3.00, 4.18, 5.37, 6.56, 7.77, 12.66),
    ("HumanEval", "8B"): (7.96, 11.09, 14.22, 17.37, 20.53, 33.28),
    ("HumanEval", "70B"): (69.52, 96.72, 123.99, 151.31, 178.69, 288.79),
}


def node_flops(task, size, in_degree):
    question, reply = LENGTHS[task]
    return flops(size, Tokens(question + in_degree * reply, reply))


def stage(task):
    question, reply = LENGTHS[task]
    models = [Model(name, size.parameters, size.layers, size.hidden_size) for name, size in SIZES.items()]
    lengths = Lengths(prompt=question, output={"solve": reply}, edge=reply)
    return StageSpace("answer", (Assistant(name="a"),), Pool(models), 20, lengths)


def star(models, sink):
    nodes = tuple(Node("a", model) for model in (*models, sink))
    return Graph(nodes, tuple((i, len(models)) for i in range(len(models))))


def chains(models, length, sink):
    """Chains of that length side by side, each ending in the sink."""
    nodes = tuple(Node("a", model) for model in (*models, sink))
    last = len(models)
    return Graph(nodes, tuple((i, i + 1 if (i + 1) % length and i + 1 < last else last) for i in range(last)))


# ---- one call


def test_by_hand():
    # M=100, L=2, D=10; prefill(10) = 2·100·10 + 2·2·10·10·11, decode(10, 3) = 2·100·3 + 2·2·10·3·(20+3+1)
    size = Size(100, 2, 10)
    assert flops(size, Tokens(10, 0)) == 6400
    assert flops(size, Tokens(10, 3)) == 6400 + 3480
    assert flops(size, Tokens(4, 3)) == 3640
    pool = Pool([Model("m", 100, 2, 10)])
    space = StageSpace("answer", (Assistant(name="a"),), pool, 3, Lengths(prompt=4, output={"solve": 3}, edge=3))
    assert space.price(star(["m", "m"], "m")).flops == 17160
    assert space.price(star(["m", "m"], "m")) == Cost(
        17160, 3, 4 + 4 + 10, 9, tts_units=pytest.approx(100 / 3e9 * (4 + 10 + 9) / 64 - 2)
    )


@pytest.mark.parametrize("d", range(11))
def test_quadratic_in_the_in_degree(d):
    alpha, beta, gamma = 360, 2400, 3640
    assert flops(Size(100, 2, 10), Tokens(4 + 3 * d, 3)) == alpha * d * d + beta * d + gamma


@pytest.mark.parametrize("task", LENGTHS)
@pytest.mark.parametrize("model", SIZES)
def test_coefficients(task, model):
    question, reply = LENGTHS[task]
    m, attention = SIZES[model].parameters, SIZES[model].layers * SIZES[model].hidden_size
    alpha = 2 * attention * reply**2
    beta = 2 * m * reply + 2 * attention * reply * (2 * question + 2 * reply + 1)
    gamma = 2 * (m + attention) * (question + reply) + 2 * attention * (question + reply) ** 2
    for d in range(11):
        assert node_flops(task, SIZES[model], d) == pytest.approx(alpha * d * d + beta * d + gamma, rel=1e-12)


@pytest.mark.parametrize("task", LENGTHS)
def test_unit(task):
    assert node_flops(task, SIZES["1B"], 0) == pytest.approx(UNITS[task], rel=1e-4)
    assert stage(task).cheapest == node_flops(task, SIZES["1B"], 0)


@pytest.mark.parametrize(("task", "model"), IN_UNITS)
def test_cost_in_units_by_in_degree(task, model):
    unit = node_flops(task, SIZES["1B"], 0)
    costs = [node_flops(task, SIZES[model], d) / unit for d in IN_DEGREES]
    assert costs == pytest.approx(IN_UNITS[task, model], abs=0.01)
    space = stage(task)
    table = space.flops_table[0, list(SIZES).index(model)]
    assert [table[d] / unit for d in IN_DEGREES] == pytest.approx(costs, rel=1e-12)


def test_without_layers_attention_is_not_counted():
    assert flops(Size(5e9), Tokens(100, 20)) == 2 * 5e9 * 120


# ---- whole graphs


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (star(["1B"] * 4, "3B"), (14.21, 13.23, 11.77)),
        (star(["1B"] * 9, "3B"), (28.83, 26.44, 22.91)),
        (star(["3B"] * 3, "3B"), (17.35, 16.63, 15.55)),
        (star(["3B"] * 4, "3B"), (22.18, 21.21, 19.76)),
        (star(["8B"], "3B"), (12.70, 12.47, 12.14)),
        (chains(["1B"] * 4, 4, "3B"), (10.53, 10.07, 9.36)),
        (chains(["1B"] * 9, 9, "3B"), (18.48, 17.63, 16.34)),
        (chains(["1B"] * 8, 2, "3B"), (20.57, 19.28, 17.35)),
        (star(["8B", "3B", "1B"], "3B"), (20.30, 19.59, 18.52)),
        (star(["1B"] * 9, "1B"), (15.68, 14.87, 13.66)),
    ],
    ids=["4 x 1B", "9 x 1B", "3 x 3B", "4 x 3B", "1 x 8B", "chain 4", "chain 9", "four pairs", "mixed", "1B sink"],
)
def test_whole_graphs(graph, expected):
    for task, units in zip(LENGTHS, expected, strict=True):
        space = stage(task)
        assert space.price(graph).flops / space.cheapest == pytest.approx(units, abs=0.01)


# ---- sums


def test_costs_add():
    costs = [Cost(1.0, 2, 3, 4), Cost(0.5, 1, 1, 1)]
    assert total(costs) == Cost(1.5, 3, 4, 5)
    assert total([]) == Cost()
    assert total(costs).over(2) == Cost(0.75, 1.5, 2, 2.5)
    assert Cost.of_call(Size(100, 2, 10), Tokens(4, 3)) == Cost(3640, 1, 4, 3, tts_units=100 / 3e9 * 7 / 64)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ({"parameters": 0}, "parameters=0"),
        ({"parameters": -3e9}, "parameters=-3000000000.0"),
        ({"parameters": float("nan")}, "parameters=nan"),
        ({"parameters": 1, "layers": -2}, "layers=-2"),
        ({"parameters": 1, "hidden_size": -7}, "hidden_size=-7"),
    ],
)
def test_bad_size(size, shown):
    with pytest.raises(BudgetError, match=rf"a model needs parameters > 0.*{shown}.*correct them"):
        Size(**size)
    with pytest.raises(BudgetError, match=shown):
        Model("m", **size)


# ---- dollars and seconds


def test_rates_price_a_call():
    model = Model("m", 100, 2, 10, usd={"prompt_token": 2.0, "output_token": 3.0}, seconds={"call": 1.0})
    assert model.cost(Tokens(4, 3)) == Cost(3640, 1, 4, 3, 2 * 4 + 3 * 3, 1.0, 100 / 3e9 * 7 / 64)
    free = Model("m", 100).cost(Tokens(4, 3))
    assert (free.flops, free.usd, free.seconds) == (2 * 100 * 7, 0.0, 0.0)


@pytest.mark.parametrize("rates", [{"token": 1.0}, 3, {"call": -1}, {"call": "dear"}])
def test_bad_rates(rates):
    with pytest.raises(ValueError, match=r"usd=|rates must be numbers of at least 0.*correct 'usd:'"):
        Model("m", 1.0, usd=rates)


# ---- AgentTTS units

TTS = {  # stage: prompt and output tokens, and the cost of a first sample, of a further one, and samples for one of the largest
    "2Wiki retrieval": ((2048, 128), {7: (77.33, 4.67, 158.9), 32: (360.67, 21.33, 22.2), 72: (814, 48, 1)}),
    "2Wiki QA": ((256, 64), {3: (3, 1, 112.7), 8: (11.33, 2.67, 39.8), 70: (114.67, 23.33, 1)}),
    "KG retrieval": ((1024, 64), {7: (37.67, 2.33, 158.9), 72: (406, 24, 1)}),
    "KG QA": ((256, 64), {8: (11.33, 2.67, 39.8), 70: (114.67, 23.33, 1)}),
    "TaskBench 1": ((1024, 64), {8: (43.33, 2.67, None), 70: (394.67, 23.33, 1)}),
    "TaskBench 2": ((1024, 256), {8: (51.33, 10.67, None), 70: (464.67, 93.33, 1)}),
    "TaskBench 3": ((1024, 2048), {8: (126, 85.33, None), 70: (1118, 746.67, 1)}),
    "ChatDev 1": ((1024, 1024), {3: (30, 16, None), 70: (744.67, 373.33, 1)}),
    "ChatDev 2": ((1024, 512), {3: (22, 8, None), 70: (558, 186.67, 1)}),
    "ChatDev 3": ((1024, 256), {3: (18, 4, None), 70: (464.67, 93.33, 1)}),
}
TASKS = {"2Wiki": 929, "KG": 521, "TaskBench": 1978, "ChatDev": 1768}


@pytest.mark.parametrize(("stage_name", "billions"), [(name, b) for name, (_, models) in TTS.items() for b in models])
def test_tts_cost_of_samples(stage_name, billions):
    tokens, models = Tokens(*TTS[stage_name][0]), TTS[stage_name][1]
    first, further, for_one = models[billions]
    assert tts_cost(billions * 1e9, tokens, 1) == pytest.approx(first, abs=0.005)
    for samples in (1, 7, 60):
        more = tts_cost(billions * 1e9, tokens, samples + 1) - tts_cost(billions * 1e9, tokens, samples)
        assert more == pytest.approx(further, abs=0.005)
        cost = tts_cost(billions * 1e9, tokens, samples)
        assert tts_samples(billions * 1e9, tokens, cost) == pytest.approx(samples)
        assert cost == pytest.approx((billions / 3 * (tokens.prompt + samples * tokens.output) - 128) / 64)
    largest = max(models)
    bought = tts_samples(billions * 1e9, tokens, tts_cost(largest * 1e9, tokens, 1))
    assert for_one is None or bought == pytest.approx(for_one, abs=0.051)


def test_tts_cost_of_the_reference():
    assert [tts_cost(3e9, Tokens(128, 64), samples) for samples in (1, 10)] == [1, 10]


@pytest.mark.parametrize(("task", "default"), TASKS.items())
def test_tts_cost_of_one_sample_of_the_largest_everywhere(task, default):
    costs = [
        tts_cost(max(models) * 1e9, Tokens(*tokens), 1)
        for name, (tokens, models) in TTS.items()
        if name.startswith(task)
    ]
    assert sum(costs) == pytest.approx(default, abs=1)


@pytest.mark.parametrize("samples", [1, 2, 9])
def test_tts_cost_of_a_star_is_that_of_its_samples(samples):
    # S solves share the prompt; each reader of other answers pays its own
    question, reply = LENGTHS["MATH"]
    space, tokens = stage("MATH"), Tokens(question, reply)
    graph = star(["8B"] * samples, "3B")
    reader = tts_units(3e9, Tokens(question + samples * reply, reply))
    assert space.price(graph).tts_units == pytest.approx(tts_cost(8e9, tokens, samples) + reader)
    both = star(["8B"] * samples + ["1B"], "3B")
    reader = tts_units(3e9, Tokens(question + (samples + 1) * reply, reply))
    assert space.price(both).tts_units == pytest.approx(
        tts_cost(8e9, tokens, samples) + tts_units(1e9, tokens) + reader
    )
