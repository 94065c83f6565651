"""Whether the embedded models answer the same wherever they run.

Asks each model the same prompts, greedily, by the embedded backend, by transformers and, if told to, by a vLLM server;
prints how many replies are equal to the embedded backend's and how far log-probabilities are apart. Exit status 1 if
a reply differs.

    python benchmarks/same_outputs.py [--models a-small b-large] [--prompts 200]
    python benchmarks/same_outputs.py --vllm-python VENV/bin/python     # starts a server per model (.ci/vllm_cpu.sh VENV)
    python benchmarks/same_outputs.py --url http://127.0.0.1:8000/v1    # a server that runs; its models only

Needs the extra 'hf'. One thread, float32, loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from agentgraph.backends.base import Backend
from agentgraph.backends.embedded.backend import Embedded
from agentgraph.backends.openai_server import OpenAIServer
from agentgraph.prompt import WORDS, Prompt, render
from agentgraph.request import Reply, Request, Settings
from agentgraph.tasks import calc, recall

START_SECONDS = 240
STOP_SECONDS = 30


def requests(model: str, n: int) -> list[Request]:
    """Greedy requests: both tasks, solve, refine and fuse in turn, candidates right and wrong; the same for all models."""
    rng = np.random.default_rng(0)
    drawn = {task: task.sample_questions(rng, n) for task in (calc, recall)}
    made = []
    for i in range(n):
        task, word = (calc, recall)[i % 2], WORDS[i // 2 % 3]
        question = drawn[task][i]
        wanted = {"solve": 0, "refine": 1, "fuse": 2 + i % 3}[word]
        candidates = tuple(
            task.answer(question) if rng.random() < 0.5 else f"{rng.integers(1000):03d}" for _ in range(wanted)
        )
        prompt = Prompt(word, task.TAG, "", "", question, candidates)
        settings = Settings(temperature=0.0, max_tokens=task.MAX_OUTPUT_TOKENS)
        made.append(Request(model, model, render("embedded", prompt), settings))
    return made


def by_backend(backend: Backend, asked: Sequence[Request]) -> list[Reply]:
    """Replies of a backend."""

    async def run() -> list[Reply]:
        slots = asyncio.Semaphore(backend.limit)

        async def one(request: Request) -> Reply:
            async with slots:
                return await backend.reply(request)

        try:
            return await asyncio.gather(*map(one, asked))
        finally:
            await backend.close()

    return asyncio.run(run())


def by_transformers(folder: Path, asked: Sequence[Request]) -> list[Reply]:
    """Replies of transformers: the folder's own chat template, prompts of one length together, no padding."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    groups: dict[tuple[int, int | None], list[int]] = {}
    ids = []
    for i, request in enumerate(asked):
        messages = [{"role": role, "content": text} for role, text in request.messages]
        ids.append(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])
        groups.setdefault((len(ids[i]), request.settings.max_tokens), []).append(i)
    replies: dict[int, Reply] = {}
    for (length, limit), members in groups.items():
        prompts = torch.tensor([ids[i] for i in members])
        out = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            max_new_tokens=limit,
            output_logits=True,
            return_dict_in_generate=True,
        )
        tokens = out.sequences[:, length:]
        taken = torch.log_softmax(torch.stack(out.logits, 1), -1).gather(2, tokens[:, :, None])[:, :, 0].double()
        for row, i in enumerate(members):
            ends = (tokens[row] == tokenizer.eos_token_id).nonzero()
            count = int(ends[0]) + 1 if len(ends) else tokens.shape[1]
            text = tokenizer.decode(tokens[row, : count - bool(len(ends))])
            finish = "stop" if len(ends) else "length"
            replies[i] = Reply(text, length, count, finish, float(taken[row, :count].sum()))
    return [replies[i] for i in range(len(asked))]


@contextlib.contextmanager
def vllm_server(python: str, folder: Path) -> Iterator[str]:
    """URL of a vLLM server of one model on the loopback interface; it is stopped whatever happens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--served-model-name", folder.name, "--max-model-len", "256", "--dtype", "float32"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192"]
    command += ["--max-num-seqs", "128", "--distributed-executor-backend", "uni"]
    command += ["--kv-cache-memory-bytes", "134217728", "--disable-uvicorn-access-log"]
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **settings, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    with tempfile.TemporaryFile("w+") as log:
        # A session of its own, so that stopping it by its id takes its children along and nothing else.
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            await_health(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            stop(server)


def await_health(server: subprocess.Popen[bytes], url: str, log: object) -> None:
    """Wait until a server answers; shows the end of its log if it does not."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        time.sleep(0.5)
    log.seek(0)  # type: ignore[attr-defined]
    sys.exit(f"vLLM did not start (exit status {server.poll()}):\n{log.read()[-3000:]}")  # type: ignore[attr-defined]


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and its children."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def row(model: str, engine: str, ours: Sequence[Reply], theirs: Sequence[Reply], seconds: float) -> bool:
    """Print one line of the table; whether all texts are equal."""
    pairs = list(zip(ours, theirs, strict=True))
    same = [a.text == b.text and a.finish == b.finish for a, b in pairs]
    counts = sum((a.prompt_tokens, a.output_tokens) == (b.prompt_tokens, b.output_tokens) for a, b in pairs)
    gaps = [
        abs(a.logprob - b.logprob)
        for (a, b), equal in zip(pairs, same, strict=True)
        if equal and a.logprob is not None and b.logprob is not None
    ]
    largest = f"{max(gaps):.1e}" if gaps else "none given"
    print(
        f"{model:10} {engine:14} {len(pairs):>7} {sum(same):>7} {counts:>12} {largest:>20} {seconds:>8.1f}", flush=True
    )
    return all(same)


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Embedded().folder, help="folder of model folders")
    parser.add_argument("--models", nargs="+", help="default: all in the folder, or all that the server serves")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM")
    parser.add_argument("--url", help="a server that runs already")
    options = parser.parse_args()
    # Torch is not imported yet.
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})
    embedded = Embedded(folder=options.folder, device="cpu")
    names = options.models or list(asyncio.run(embedded.served()))
    if options.url and not options.models:
        names = [name for name in names if name in asyncio.run(OpenAIServer(options.url).served())]
    print(
        f"{'model':10} {'engine':14} {'prompts':>7} {'equal':>7} {'equal counts':>12} {'largest logprob gap':>20} {'seconds':>8}"
    )
    good = True
    for name in names:
        folder, asked = options.folder / name, requests(name, options.prompts)
        ours, seconds = timed(lambda asked=asked: by_backend(embedded, asked))
        row(name, "embedded", ours, ours, seconds)
        theirs, seconds = timed(lambda asked=asked, folder=folder: by_transformers(folder, asked))
        good &= row(name, "transformers", ours, theirs, seconds)
        with contextlib.ExitStack() as stack:
            url = options.url
            if options.vllm_python:
                url = stack.enter_context(vllm_server(options.vllm_python, folder))
            if url:
                theirs, seconds = timed(lambda asked=asked, url=url: by_backend(OpenAIServer(url), asked))
                good &= row(name, "OpenAI server", ours, theirs, seconds)
    return 0 if good else 1


def timed(work: Callable[[], list[Reply]]) -> tuple[list[Reply], float]:
    """Result of ``work`` and the seconds it took."""
    start = time.monotonic()
    return work(), time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
