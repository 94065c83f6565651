"""Puts this folder on the path, so that tests in folders below find its helpers; one thread for arithmetic."""

from collections.abc import Iterator

import pytest
import torch
from servers.loopback import Loopback

torch.set_num_threads(1)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """An OpenAI-compatible server on 127.0.0.1; set its ``script`` to make it fail. No key is in the environment."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Loopback() as server:
        yield server
