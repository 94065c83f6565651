"""Search for the collaboration graph of language models that answers best within a budget.

The names below are the public API; modules are public only to conf, which names them.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING

from agentgraph.version import __version__

if TYPE_CHECKING:
    from agentgraph.api import pick as pick
    from agentgraph.api import replay as replay
    from agentgraph.api import search as search
    from agentgraph.archive import Archive as Archive
    from agentgraph.backends.openai_server import OpenAIServer as OpenAIServer
    from agentgraph.backends.scripted import Scripted as Scripted
    from agentgraph.budget import Budget as Budget
    from agentgraph.budget import Cost as Cost
    from agentgraph.config import load_models as load_models
    from agentgraph.config import load_role as load_role
    from agentgraph.config import load_task as load_task
    from agentgraph.errors import AgentGraphError as AgentGraphError
    from agentgraph.graph import Graph as Graph
    from agentgraph.graph import Node as Node
    from agentgraph.model import Model as Model
    from agentgraph.optimizers.agent_reinforce import AgentReinforce as AgentReinforce
    from agentgraph.plan import Plan as Plan
    from agentgraph.plan_file import PlanFile as PlanFile
    from agentgraph.run import Result as Result
    from agentgraph.trial import Trial as Trial

_HOME = {
    "AgentGraphError": "errors",
    "AgentReinforce": "optimizers.agent_reinforce",
    "Archive": "archive",
    "Budget": "budget",
    "Cost": "budget",
    "Graph": "graph",
    "Model": "model",
    "Node": "graph",
    "OpenAIServer": "backends.openai_server",
    "Plan": "plan",
    "PlanFile": "plan_file",
    "Result": "run",
    "Scripted": "backends.scripted",
    "Trial": "trial",
    "load_models": "config",
    "load_role": "config",
    "load_task": "config",
    "pick": "api",
    "replay": "api",
    "search": "api",
}

__all__ = [  # noqa: PLE0604  a list of strings, all of them
    *sorted(_HOME),
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import agentgraph`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'agentgraph' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    return getattr(importlib.import_module(f"agentgraph.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*_HOME, "__version__"]


class _Package(types.ModuleType):
    """Keeps `agentgraph.search`, `pick` and `replay` the functions when the modules of that name are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, types.ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
