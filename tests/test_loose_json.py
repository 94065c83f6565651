"""JSON is read as it is; what models make of it is read as it was meant; what is cut keeps what was complete."""

import json
import random

import pytest

from agentgraph.loose_json import Found, objects


def sole(text):
    (found,) = objects(text)
    return found


def random_value(rng, depth=0):
    kind = rng.randrange(8 if depth < 4 else 6)
    if kind == 6:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {random_text(rng): random_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return [None, True, False, rng.randint(-999, 999), rng.random(), random_text(rng)][kind]


def random_text(rng):
    return "".join(rng.choice("ab \"'\\,:{}[]\n\té図%<") for _ in range(rng.randrange(12)))


@pytest.mark.parametrize("seed", range(100))
def test_valid_json_is_read_as_such_and_so_is_what_python_prints(seed):
    rng = random.Random(seed)
    value = {random_text(rng): random_value(rng) for _ in range(3)}
    assert sole(f"Well: {json.dumps(value)} so.") == Found(value)
    assert sole(json.dumps(value, indent=1, ensure_ascii=False)) == Found(value)


@pytest.mark.parametrize("seed", range(20))
def test_every_beginning_of_an_object_gives_what_was_complete(seed):
    rng = random.Random(seed)
    items = [{"n": rng.randrange(100), "s": "x y", "l": [1, 2]} for _ in range(4)]
    text = json.dumps({"critique": "good", "items": items, "last": 1})
    for end in range(1, len(text)):
        found = sole(text[:end])
        assert found.flaw == "cut off"
        kept = found.value.get("items", [])
        assert kept == items[: len(kept)]
        assert len(kept) == max(0, text[:end].count("]}"))
        assert "good".startswith(found.value.get("critique", ""))
        assert "last" not in found.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{'a': 'it', \"b\": 'x \"y\" z'}", {"a": "it", "b": 'x "y" z'}),
        ("{'a': 'it's so', 'b': None}", {"a": "it's so", "b": None}),
        ('{"a": "the "vote" did well", "b": True}', {"a": 'the "vote" did well', "b": True}),
        ('{"a": [1, 2,], "b": {"c": False,},}', {"a": [1, 2], "b": {"c": False}}),
        ('{"a": 1 "b": [1 2]}', {"a": 1, "b": [1, 2]}),
        ('{"a": +0.5, "b": .25, "c": 40%, "d": 2.}', {"a": 0.5, "b": 0.25, "c": "40%", "d": 2}),
        ('{"a": "line\nline", "b": "\\frac \\d \\u00e9 \\u00"}', {"a": "line\nline", "b": "\frac \\d é \\u00"}),
        ('{"a": -Infinity, "b": "x",}', {"a": float("-inf"), "b": "x"}),
        ("{'a': " + "9" * 5000 + "}", {"a": float("inf")}),
    ],
)
def test_what_models_make_of_it(text, expected):
    assert sole(text) == Found(expected)


def test_several_objects_and_prose_with_braces():
    text = 'A set {a, b}. First {"x": 1}, then {\'y\': 2,} and {"z": [1, 2'
    assert list(objects(text)) == [Found({"x": 1}), Found({"y": 2}), Found({"z": [1]}, "cut off")]


def test_broken_keeps_what_came_before():
    assert sole('{"a": 1, "b": [{"c": 2}, {c: 3}], "d": 4}') == Found({"a": 1, "b": [{"c": 2}]}, "broken")


@pytest.mark.parametrize("text", ["", "no", "{a}", "[1]", "{1: 2}", "}{x"])
def test_no_object(text):
    assert list(objects(text)) == []


def test_hostile_texts_end():
    for text in ('{"a":' * 50_000, "{" * 100_000, '{"' * 50_000, "{'a':[" * 30_000, '{"a": "b" c' * 20_000):
        assert all(found.flaw for found in objects(text))
