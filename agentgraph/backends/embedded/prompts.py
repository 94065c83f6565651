"""The prompt form of the embedded family."""

from collections.abc import Sequence

ROLES = {"solve": "S", "refine": "R", "fuse": "F"}


def render(role: str, tag: str, question: str, candidates: Sequence[str] = ()) -> str:
    """Prompt text: role letter, task letter, the candidates, then the question.

    Examples
    --------
    >>> render("solve", "C", "06*02*04*02*02*853")
    'SC:06*02*04*02*02*853'
    >>> render("fuse", "K", "qxv", ["296", "412"])
    'FK296|412|:qxv'
    """
    return ROLES[role] + tag + "".join(f"{one}|" for one in candidates) + ":" + question
