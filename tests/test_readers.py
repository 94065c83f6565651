"""Readers of public tables: the stated accuracies, and folders that can be searched. AGENTGRAPH_DATA names the tables."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from agentgraph.recording import Recording

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
script = importlib.import_module("recorded_worlds")
sizes = importlib.import_module("recorded.sizes")
worlds_of = importlib.import_module("recorded.world")

DATA = Path(os.environ.get("AGENTGRAPH_DATA", ""))
needs_data = pytest.mark.skipif(
    not os.environ.get("AGENTGRAPH_DATA"), reason="AGENTGRAPH_DATA does not name the tables"
)


@needs_data
@pytest.mark.parametrize("table", ["llm_cascades", "mot_cascade", "zeroeval", "mmlu_pro", "livecodebench"])
def test_accuracies_are_as_stated_and_folders_are_read_back(table, tmp_path):
    if not (DATA / table).is_dir():
        pytest.skip(f"{DATA / table} is not there")
    worlds = list(script.read(DATA, table))
    assert worlds
    for world in worlds:
        line, good = script.row(world)
        assert world.stated or world.name.endswith("-composed"), line
        assert good, line
    smallest = min(worlds, key=lambda world: len(world.replies)).complete()
    recording = Recording.read(smallest.write(tmp_path / table))
    assert {q.id for q in recording.questions} == set(smallest.questions)
    assert min(recording.samples.values()) >= 1
    assert recording.has_answers != smallest.marks_only
    if recording.has_answers:
        gold = {question.id: question.gold for question in recording.questions}
        right = sum(r.answer == gold[q] for by in recording.replies.values() for q, row in by.items() for r in row)
        assert right == sum(reply.mark for reply in smallest.replies)


def test_absent_tables_are_skipped_in_sight(tmp_path, capsys):
    assert script.main([f"data={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("skipped ") == 5


@pytest.mark.parametrize(("given", "words"), [([], "data is missing"), (["data=x", "wrld=y"], "unknown: wrld")])
def test_bad_arguments(given, words, capsys):
    assert script.main(given) == 2
    assert words in capsys.readouterr().out


def test_incomplete_models_and_questions_are_left_out():
    replies = [worlds_of.Reply(f"q{q}", m, 0, "a", 1.0, 1, 1) for q in range(40) for m in "xyz" if m != "z" or q < 10]
    replies = [reply for reply in replies if (reply.question, reply.model) != ("q3", "y")]
    world = worlds_of.World("w", {f"q{q}": ("t", "a") for q in range(40)}, replies, {model: {} for model in "xyz"})
    whole = world.complete()
    assert set(whole.sizes) == {"x", "y"}
    assert "q3" not in whole.questions
    assert whole.notes == (
        "left out z: 10 of 40 questions recorded",
        "left out 1 questions that not every model was asked",
    )


def test_sizes():
    assert sizes.parameters("llama3.2-1b") == 1e9
    assert sizes.parameters("Mixtral-8x7B-Instruct-v0.1") == 13e9
    assert sizes.parameters("qwen2.5-32b-coder-instruct") == 32e9
    with pytest.raises(ValueError, match="size of 'nobody' is not known; add a line"):
        sizes.parameters("nobody")
