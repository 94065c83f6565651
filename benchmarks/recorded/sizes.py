"""Sizes of models by their names, for prices in FLOPs.

Published counts of weights that take part in a token, read from the name where it holds one; for models whose size is
not public a stand-in in line with their list prices of 2024. Change them as you like: they set prices, never answers.
"""

from __future__ import annotations

import re
from typing import Final

_BILLIONS: Final = (  # the first pattern that is found in the name, lower case
    (r"gpt-4o-mini", 12),
    (r"gpt-4o|chatgpt-4o", 200),
    (r"gpt-4-turbo", 400),
    (r"gpt-4", 800),
    (r"gpt-3\.5", 40),
    (r"o1-mini", 300),
    (r"o1-preview", 1000),
    (r"claude-3-opus|claude-2", 600),
    (r"sonnet", 200),
    (r"claude-3-5-haiku", 60),
    (r"haiku|claude-instant", 20),
    (r"gemini.*flash|flash-1\.5", 10),
    (r"gemini", 150),
    (r"grok-2", 150),
    (r"mixtral-8x22b", 39),
    (r"8x7b", 13),
    (r"jamba-1\.5-large", 94),
    (r"deepseek|dscoder-v2", 21),
    (r"mistral-large", 123),
    (r"mistral-nemo", 12),
    (r"codestral", 22),
    (r"command-r-plus", 104),
    (r"command-r", 35),
    (r"reka-core", 67),
    (r"reka-flash", 21),
    (r"yi-large", 100),
    (r"phi-3", 3.8),
    (r"starcoder", 15),
)


def parameters(model: str) -> float:
    """Number of weights of a model, or its stand-in.

    Raises
    ------
    ValueError
        If nothing is known of it.
    """
    name = model.lower()
    for pattern, billions in _BILLIONS:
        if re.search(pattern, name) and not (pattern.startswith("deepseek") and re.search(r"\d+(\.\d+)?b", name)):
            return billions * 1e9
    found = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", name)
    if found is None:
        raise ValueError(f"the size of {model!r} is not known; add a line to benchmarks/recorded/sizes.py")
    return float(found.group(1)) * 1e9
