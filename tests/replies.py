"""What agents may say: good replies, and bad ones with their kind and the message that says what is wrong."""

import json

GOOD = json.dumps(
    {
        "critique": "votes did well",
        "nudges": [
            {"table": "role", "slot": 0, "option": "vote", "by": 1.5, "expect": 0.1, "because": "it did"},
            {"table": "edge", "slot": 2, "option": "0", "by": -0.5},
            {"table": "model", "slot": 1, "option": "a-small", "by": 3},
        ],
    }
)
CHOICE = json.dumps({"critique": "complementary", "mixes": [2, 0]})
SOLVE = {"role": "assistant", "model": "a-small"}
PROSE = "expected a JSON object, got "


def nudge(**changes):
    """Feedback with one nudge; a value of ``None`` leaves a field out."""
    entry = {"table": "role", "slot": 0, "option": "vote", "by": 1.0, **changes}
    entry = {key: value for key, value in entry.items() if value is not None}
    return json.dumps({"critique": "", "nudges": [entry]})


def plan(*nodes):
    """Feedback with one plan of one stage and nothing else."""
    return json.dumps({"critique": "", "nudges": [], "plans": [[nodes]]})


BAD = {
    "empty": ("", f"{PROSE}''", "empty"),
    "blank": (" \n\t", f"{PROSE}''", "empty"),
    "only thoughts": ("<think>The edge, hm.</think>\n", f"{PROSE}''", "empty"),
    "prose": ("Sure! I would raise the edge.", f"{PROSE}'Sure! I would", "prose"),
    "a list": ("[1, 2]", rf"{PROSE}'\[1, 2\]'", "prose"),
    "not JSON": ("{critique: none}", rf"{PROSE}'\{{critique: none\}}'", "prose"),
    "Chinese": ("您好,图表很好。", f"{PROSE}'您好.*answer in English", "language"),
    "Cyrillic": ("Граф хороший, OK.", f"{PROSE}'Граф", "language"),
    "cut": (GOOD[:40], "the reply ends early.*; write less", "cut off"),
    "cut in the first nudge": (GOOD[:90], "the reply ends early; write less", "cut off"),
    "cut thoughts": ("<think>The edge {", "the reply ends early: '<think>The edge", "cut off"),
    "braces only": ("}{", "the reply ends early", "cut off"),
    "surrogate": ("\ud800 {", "the reply ends early", "cut off"),
    "too deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, "expected a JSON object", "schema"),
    "broken": ('{"critique": "x", "nudges": [{7}]}', "cannot be read to its end", "schema"),
    "nothing": ("{}", r"expected a JSON object with 'critique' and 'nudges', got one with \[\]", "schema"),
    "no nudges": ('{"critique": "x"}', "at 'nudges': Field required", "schema"),
    "other format": ('{"critique": "x", "nudges": [], "graph": {}}', "at 'graph': there is no such field", "schema"),
    "nudges no list": ('{"critique": "x", "nudges": 7}', "at 'nudges': .* got '7'", "schema"),
    "a nudge no object": ('{"critique": "", "nudges": ["up"]}', r"at 'nudges\.0': .*got 'up'", "schema"),
    "huge number": ('{"critique": "", "nudges": [' + "9" * 10_000 + "]}", r"at 'nudges\.0': .*got 'inf'", "schema"),
    "unknown table": (nudge(table="seed"), r"at 'nudges\.0\.table': .*got 'seed'", "schema"),
    "by is a word": (nudge(by="much"), r"at 'nudges\.0\.by': .*got 'much'", "schema"),
    "by is true": (nudge(by=True), r"at 'nudges\.0\.by': .*not true or false, got 'True'", "schema"),
    "by is a share": (nudge(by="40%"), r"at 'nudges\.0\.by': .*got '40%'", "schema"),
    "to no share": (nudge(by=None, to="all%"), r"at 'nudges\.0\.to': .*got 'all%'", "schema"),
    "by and to": (nudge(to=0.5), r"at 'nudges\.0': .*give either 'by' or 'to'", "schema"),
    "neither by nor to": (nudge(by=None), r"at 'nudges\.0': .*give either 'by' or 'to'", "schema"),
    "strange field": (nudge(why="x"), r"at 'nudges\.0\.why': Extra inputs", "schema"),
    "expects too much": (nudge(expect=3), r"at 'nudges\.0\.expect': .*got '3'", "schema"),
    "unknown role": (nudge(option="judge"), "role nudge names 'judge'; there are assistant", "unknown id"),
    "unknown model": (nudge(table="model", option="gpt"), "model nudge names 'gpt'; there are a-small", "unknown id"),
    "unknown slot": (nudge(slot=5), "nudge names slot 5; slots are 0 to 4", "unknown id"),
    "negative slot": (nudge(slot=-1), r"at 'nudges\.0\.slot': .*got '-1'", "unknown id"),
    "unknown stage": (nudge(stage=1), "nudge names stage 1; stages are 0 to 0", "unknown id"),
    "edge to a word": (nudge(table="edge", slot=1, option="sink"), "edge nudge from slot 1 to 'sink'", "unknown id"),
    "edge to no slot": (nudge(table="edge", slot=1, option="9"), "edge nudge from slot 1 to '9'", "unknown id"),
    "by too large": (nudge(by=3.01), r"at 'nudges\.0\.by': .*got '3.01'", "probability"),
    "by too small": (nudge(by=-30), r"at 'nudges\.0\.by': .*got '-30'", "probability"),
    "by is NaN": (nudge(by=float("nan")), r"at 'nudges\.0\.by'", "probability"),
    "by is infinite": (nudge(by=float("inf")), r"at 'nudges\.0\.by'", "probability"),
    "p above 1": (nudge(by=None, to=1.2), r"at 'nudges\.0\.to': .*got '1.2'", "probability"),
    "p below 0": (nudge(by=None, to=-0.1), r"at 'nudges\.0\.to': .*got '-0.1'", "probability"),
    "p above 100%": (nudge(by=None, to="140%"), r"at 'nudges\.0\.to': ", "probability"),
    "edge up": (
        nudge(table="edge", slot=1, option="3"),
        "edge nudge from slot 1 to '3'; it must go to a slot",
        "cycle",
    ),
    "edge to itself": (nudge(table="edge", slot=1, option="1"), "edge nudge from slot 1 to '1'", "cycle"),
    "edge from the sink": (nudge(table="edge", slot=0, option="0"), "edge nudge from slot 0 to '0'", "cycle"),
}

BAD_PLANS = {
    "no list": ('{"critique": "", "nudges": [], "plans": 3}', "'plans' must be a list, got '3'", "schema"),
    "no graphs": ('{"critique": "", "nudges": [], "plans": [3]}', "plans.0 must be a list of graphs", "schema"),
    "a graph no list": (
        '{"critique": "", "nudges": [], "plans": [[{}]]}',
        "plans.0 must be a list of graphs",
        "schema",
    ),
    "no role": (plan({"model": "a-small"}), r"at 'plans\.0\.nodes\.0\.role': Field required", "schema"),
    "strange field": (plan({**SOLVE, "to": 1}), r"at 'plans\.0\.nodes\.0\.to': Extra inputs", "schema"),
    "unknown role": (plan({"role": "judge"}), "node 0 has the role 'judge'; there are assistant", "unknown id"),
    "unknown model": (plan({**SOLVE, "model": "gpt"}), "node 0 has the model 'gpt'; there are a-small", "unknown id"),
    "no model": (plan({"role": "assistant"}), "node 0 has the model ''", "unknown id"),
    "unknown parent": (
        plan({**SOLVE, "parents": [2]}),
        r"node 0 has the parents \[2\]; nodes are 0 to 0",
        "unknown id",
    ),
    "itself": (plan({**SOLVE, "parents": [0]}), "the nodes 0 -> 0 form a cycle", "cycle"),
    "cycle": (
        plan({**SOLVE, "parents": [1]}, {**SOLVE, "parents": [0]}, {"role": "vote", "parents": [1]}),
        "form a cycle",
        "cycle",
    ),
    "no node": (plan(), "has 0 nodes, 1 to 5 are allowed", "invalid plan"),
    "too many": (plan(*[SOLVE] * 9999), "has 9999 nodes, 1 to 5 are allowed", "invalid plan"),
    "two sinks": (plan(SOLVE, SOLVE), "exactly one sink", "invalid plan"),
    "too few stages": ('{"critique": "", "nudges": [], "plans": [[]]}', "has 0 graphs, the task has 1", "invalid plan"),
    "no parents": (plan({"role": "vote"}), "needs at least 1", "invalid plan"),
    "vote inside": (
        plan(SOLVE, {"role": "vote", "parents": [0]}, {**SOLVE, "parents": [1]}),
        "may only be the sink",
        "invalid plan",
    ),
    "dear": (plan({"role": "assistant", "model": "a-large"}), "of 2 units, more than the budget", "over budget"),
}
