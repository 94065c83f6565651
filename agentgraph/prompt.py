"""From the neutral form of a prompt to the chat messages of one kind of model.

A role says *what* it asks (a word, the question, the candidates it received); the model's prompt form says how that
is written. ``chat`` is for instruction-tuned models; ``embedded`` is the short form of the family that ships
with the package, which is also that family's chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentgraph.errors import ConfigError
from agentgraph.request import ChatMessage

__all__ = ["FORMS", "WORDS", "Prompt", "embedded_text", "render"]

WORDS: Final = ("solve", "refine", "fuse")
FORMS: Final = ("chat", "embedded")


@dataclass(frozen=True)
class Prompt:
    """What is asked, before it takes the form of a model.

    Parameters
    ----------
    word
        'solve' (only the question), 'refine' (improve on what was received) or 'fuse' (merge what was received).
    tag
        Short name of the task stage, one capital letter for the embedded form.
    instructions
        What the task wants, and in which format.
    role_instructions
        What the role wants done with the candidates; unused for 'solve'.
    question
        The question, in the view that this call sees.
    candidates
        What was received from parents, in node order: answers, or whole replies if the role wants them.
    """

    word: str
    tag: str
    instructions: str
    role_instructions: str
    question: str
    candidates: tuple[str, ...] = ()


def _chat(prompt: Prompt) -> tuple[ChatMessage, ...]:
    # The shared part (task, question) comes first, so that prefix caches hit across roles.
    user = prompt.question
    if prompt.word != "solve":
        listed = "\n\n".join(f"[{i}] {text}" for i, text in enumerate(prompt.candidates, start=1))
        user = f"{prompt.question}\n\n{prompt.role_instructions}\n\n{listed}"
    return (("system", prompt.instructions), ("user", user)) if prompt.instructions else (("user", user),)


def embedded_text(word: str, tag: str, question: str, candidates: Sequence[str] = ()) -> str:
    """The embedded form: letter of the word, tag, candidates, and the question last.

    Examples
    --------
    >>> embedded_text("fuse", "K", "qxv", ["296", "412"])
    'FK296|412|:qxv'
    """
    return f"{word[0].upper()}{tag}{''.join(f'{text}|' for text in candidates)}:{question}"


def _embedded(prompt: Prompt) -> tuple[ChatMessage, ...]:
    candidates = () if prompt.word == "solve" else prompt.candidates
    return (("user", embedded_text(prompt.word, prompt.tag, prompt.question, candidates)),)


_RENDERERS: Final = {"chat": _chat, "embedded": _embedded}


def render(form: str, prompt: Prompt) -> tuple[ChatMessage, ...]:
    """Chat messages of a prompt in one of `FORMS`."""
    if form not in _RENDERERS:
        raise ConfigError(f"prompt_form={form!r} is unknown; use one of {', '.join(FORMS)}")
    return _RENDERERS[form](prompt)
