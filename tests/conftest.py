"""Puts this folder on the path, so that tests in folders below find its helpers; one thread for arithmetic; Ctrl-C is heard."""

import ctypes
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import tiny_model
import torch
from fake_vllm import Vllm
from servers.loopback import Loopback

from agentgraph.errors import SandboxError

torch.set_num_threads(1)
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # what a script starts in the background ignores it, and all its children do


def _skip_without_landlock(error: SandboxError) -> None:
    """Skip where the kernel has no Landlock, so that no sandbox can be had; elsewhere a refusal is a failure."""
    if sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1:
        raise error
    pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    try:
        return (yield)
    except SandboxError as error:
        return _skip_without_landlock(error)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    try:
        return (yield)
    except SandboxError as error:
        return _skip_without_landlock(error)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """An OpenAI-compatible server on 127.0.0.1; set its ``script`` to make it fail. No key is in the environment."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Loopback() as server:
        yield server


@pytest.fixture(scope="session")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a chat model of random weights (`tiny_model`)."""
    return tiny_model.make(tmp_path_factory.mktemp("babbler"))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Vllm:
    """A stand-in for vLLM, as the module that is imported; the environment is as it was afterwards."""
    for variable in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    fake = Vllm()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake
