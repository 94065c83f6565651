"""The alphabet of the embedded family: one character is one token."""

from collections.abc import Iterable

VOCABULARY = "_^$SRFCK|:=+-*>0123456789abcdefghijklmnopqrstuvwxyz"
"""Every character the models know; its position is its token id."""

PAD, BOS, EOS = 0, 1, 2

_IDS = {character: index for index, character in enumerate(VOCABULARY)}


def encode(text: str, *, context: int | None = None) -> list[int]:
    """Token ids of ``text``, one per character.

    Parameters
    ----------
    text
        Characters of `VOCABULARY` only.
    context
        Longest text allowed, in tokens; no limit if None.

    Raises
    ------
    ValueError
        If a character is not in the vocabulary, or the text is longer than ``context``.
    """
    if context is not None and len(text) > context:
        raise ValueError(
            f"the prompt has {len(text)} tokens, the embedded models read at most {context}; "
            "shorten the question or give the node fewer parents"
        )
    try:
        return [_IDS[character] for character in text]
    except KeyError as error:
        raise ValueError(
            f"the embedded models have no token for {error.args[0]!r} (in {text[:60]!r}); "
            f"allowed characters are {VOCABULARY[3:]!r}"
        ) from None


def decode(ids: Iterable[int]) -> str:
    """Text of token ids; the inverse of `encode`."""
    return "".join(VOCABULARY[index] for index in ids)
