"""Every error that agentgraph raises on purpose.

AgentGraphError
├── ConfigError      a setting that cannot be used          (also a ValueError)
├── GraphError       a graph or plan that breaks the rules   (also a ValueError)
├── PlanFileError    a plan file that cannot be read         (also a ValueError)
├── SpaceError       a plan or option outside the space      (also a ValueError)
├── BudgetError      a budget that buys nothing, or is spent (also a ValueError)
├── TaskError        a question file or question that cannot be used (also a ValueError)
├── FeedbackError    an agent's reply that cannot be parsed  (also a ValueError)
├── ReplayError      a plan that does not fit the task it is replayed on (also a ValueError)
├── SandboxError     generated code cannot be run safely here
├── RunError         a run folder that cannot be written, read or continued
└── BackendError     a failure of the service, never of the model
    ├── BackendRefused      nobody listens, wrong name, wrong key: trying again is no use
    ├── BackendDown         the connection broke off, or the server failed (5xx)
    ├── BackendTimeout      no reply in time
    ├── BackendOverloaded   asked to slow down (429, 503)
    └── BackendMalformed    what came back is no reply (HTML, broken JSON, no choices)

Each message says what was given, what is allowed and what to change. The command line prints them as one
line; anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping


class AgentGraphError(Exception):
    """Base of all errors that are the caller's to read."""


class ConfigError(AgentGraphError, ValueError):
    """A setting that cannot be used."""


class GraphError(AgentGraphError, ValueError):
    """A graph that is cyclic, has a useless node, or breaks a role's rules."""


class PlanFileError(AgentGraphError, ValueError):
    """A plan file that is missing, damaged, or of another format version."""


class SpaceError(AgentGraphError, ValueError):
    """A plan, role or model that the search space does not have."""


class BudgetError(AgentGraphError, ValueError):
    """A budget that buys no plan, or a plan that costs more than the budget."""


class TaskError(AgentGraphError, ValueError):
    """A question file that cannot be read, or a question that cannot be asked."""


class FeedbackError(AgentGraphError, ValueError):
    """An agent's reply, or a part of one, that cannot be used.

    Parameters
    ----------
    message
        What was said and what is allowed; the agent is told when it is asked again.
    kind
        One of `agentgraph.agents.reading.KINDS`.
    rejects
        How many things were refused by kind, where the message names the first of several.
    """

    def __init__(self, message: str, *, kind: str = "schema", rejects: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.rejects = dict(rejects or {kind: 1})


class ReplayError(AgentGraphError, ValueError):
    """A plan that does not fit the task it is replayed on."""


class SandboxError(AgentGraphError):
    """Generated code cannot be run safely on this system."""


class RunError(AgentGraphError):
    """A run folder that cannot be written, read or continued."""


class BackendError(AgentGraphError):
    """A failure of the service: retried where that can help, never stored, never scored.

    Parameters
    ----------
    message
        What happened, where, and what to change.
    retry
        Whether the same request may succeed a moment later.

    Attributes
    ----------
    kind
        What tables count it as.
    """

    kind = "other"

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


class BackendRefused(BackendError):
    """The server does not listen, does not know the model, or does not accept the key."""

    kind = "refused"

    def __init__(self, message: str, *, retry: bool = False) -> None:
        super().__init__(message, retry=retry)


class BackendDown(BackendError):
    """The connection broke off, or the server failed."""

    kind = "down"


class BackendTimeout(BackendError):
    """No reply within the time limit."""

    kind = "timeout"


class BackendOverloaded(BackendError):
    """The server asks to slow down.

    Parameters
    ----------
    retry_after
        Seconds that it asks to wait, >= 0; 0 if it does not say.
    """

    kind = "overloaded"

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendMalformed(BackendError):
    """What came back is no reply."""

    kind = "malformed"
