"""The front: no point in it is beaten, none that is not beaten is missing, and the file gives back what was written."""

import numpy as np
import pytest
from generators import plan_file_of, random_plan

from agentgraph.budget import Cost
from agentgraph.errors import RunError
from agentgraph.front import Front, Measured, Point, non_dominated


def beats(a, b):
    """Whether a point, (accuracy, cost), is at least as good as another in everything and better in something."""
    good, other = (np.array([x[0], -x[1].flops, -x[1].usd, -x[1].seconds]) for x in (a, b))
    return bool((good >= other).all() and (good > other).any())


def some_points(rng, count):
    grid = rng.integers(0, 5, (count, 4)) / 4
    return [(float(row[0]), Cost(float(row[1]), usd=float(row[2]), seconds=float(row[3]))) for row in grid]


@pytest.mark.parametrize("seed", range(60))
def test_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    points = some_points(rng, int(rng.integers(0, 60)))
    kept = non_dominated(points)
    expected = [
        i
        for i, point in enumerate(points)
        if not any(beats(other, point) for other in points) and point not in points[:i]
    ]
    assert sorted(kept) == expected
    assert [points[i][1].flops for i in kept] == sorted(points[i][1].flops for i in kept)


def test_rounding_of_means_hides_no_dominated_point():
    cost = Cost(0.1 + 0.2)
    assert cost.flops > 0.3
    assert non_dominated([(0.5, Cost(0.3)), (0.9, cost)]) == [1]


def point(seed, searched, validated):
    """A point of a random plan; what was measured is (accuracy, cost) or ``None``."""

    def measured(numbers):
        return numbers and Measured(accuracy=numbers[0], low=0.0, high=1.0, stderr=0.1, questions=10, charge=numbers[1])

    plan = plan_file_of(random_plan(seed, stages=1), seed=seed)
    return Point(plan=plan, price=Cost(5.0), searched=measured(searched), validated=measured(validated))


@pytest.mark.parametrize("seed", range(30))
def test_validated_points_give_way_to_validated_ones_only(seed):
    rng = np.random.default_rng(seed)
    numbers = some_points(rng, 24)
    validated = [bool(rng.integers(2)) for _ in numbers]
    validated[0] = True
    every = [point(i, n, n if v else None) for i, (n, v) in enumerate(zip(numbers, validated, strict=True))]
    front = Front.of(every)
    places = [next(i for i, other in enumerate(every) if other is kept) for kept in front.points]
    for i, this in enumerate(numbers):
        rivals = [n for n, v in zip(numbers, validated, strict=True) if v or not validated[i]]
        beaten = any(beats(other, this) for other in rivals)
        equal = any(numbers[j] == this and (validated[j] or not validated[i]) for j in places)
        assert (i in places) <= (not beaten)
        assert i in places or beaten or equal
    assert [p.believed.charge.flops for p in front.points] == sorted(p.believed.charge.flops for p in front.points)


def test_what_is_believed():
    both = point(0, (0.9, Cost(1.0)), (0.6, Cost(1.1)))
    assert both.believed is both.validated
    alone = point(0, (0.9, Cost(1.0)), None)
    assert alone.believed is alone.searched


def test_measured_of_marks():
    measured = Measured.of([1.0, 0.0, 1.0, 1.0], Cost(2.0))
    assert (measured.accuracy, measured.questions) == (0.75, 4)
    assert measured.low < 0.75 < measured.high
    assert 0 < measured.stderr < 0.3


def test_written_and_read(tmp_path):
    front = Front.of([point(i, n, n) for i, n in enumerate(some_points(np.random.default_rng(0), 20))])
    front.write(tmp_path / "front.json")
    assert Front.read(tmp_path / "front.json") == front
    assert len(front.text().splitlines()) == len(front.points) + 2


@pytest.mark.parametrize(
    ("change", "shows"),
    [
        (lambda _: "", "is not a front: Invalid JSON: EOF while parsing a value at line 1 column 0"),
        (lambda text: text.replace('"front"', '"plan"'), "is not a front: kind: Input should be 'front'"),
        (lambda text: text.replace('"format": 1, "points"', '"format": 2, "points"'), "format: Input should be 1"),
        (lambda _: '{"kind": "front", "format": 1, "points": []}', "points: Tuple should have at least 1 item"),
        (
            lambda text: text.replace('"accuracy": 0.625', '"accuracy": 7.5'),
            r"points.0.searched.accuracy: .*equal to 1",
        ),
        (lambda text: text.replace('"searched": {', '"seen": {'), "points.0.searched: Field required"),
        (lambda text: text.replace('"role": "', '"role": "no'), "role 'no.*' is not described"),
    ],
)
def test_damaged_files(tmp_path, change, shows):
    path = tmp_path / "front.json"
    path.write_text(change(Front.of([point(1, (0.625, Cost(1.0)), (0.625, Cost(1.0)))]).text()))
    with pytest.raises(RunError, match=shows) as caught:
        Front.read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "search run=<folder>" in str(caught.value)


def test_a_point_without_numbers(tmp_path):
    with pytest.raises(ValueError, match="a point needs 'searched' or 'validated'"):
        point(0, None, None)
    with pytest.raises(RunError, match="cannot read .*: No such file"):
        Front.read(tmp_path / "none.json")


def test_of_equal_points_the_one_with_fewest_nodes_stays():
    numbers = (0.5, Cost(1.0))
    every = [point(i, numbers, numbers) for i in range(6)]
    nodes = [p.plan.plan().nodes for p in every]
    assert nodes[0] > min(nodes)
    assert [p.plan.plan().nodes for p in Front.of(every).points] == [min(nodes)]


def test_a_plan_stands_once_with_its_validated_numbers():
    searched, validated = point(0, (0.9, Cost(0.5)), None), point(0, (0.9, Cost(1.0)), (0.6, Cost(1.0)))
    assert Front.of([searched, validated]).points == (validated,)
