"""The README's tree is the tree, and its commands are what CI runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tree_lists_every_module_and_no_other():
    tree = README.split("agentgraph/\n", 1)[1].split("```", 1)[0]
    listed = set(re.findall(r"[\w/]+\.py", tree))
    package = ROOT / "agentgraph"
    there = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert there == listed


def test_ci_runs_the_test_command():
    second = re.findall(r"^python3 -m venv .*pytest$", README, flags=re.MULTILINE)
    assert len(second) == 1
    install, tests = second[0].split(" && ")[1:]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install.replace(".venv/bin/pip install ", "") in ci
    assert f'"$bin/{tests.removeprefix(".venv/bin/")}"' in ci
