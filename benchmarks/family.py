"""What the embedded family can do alone, and whether there is something to search for.

``python benchmarks/family.py`` prints three tables; ``--card`` also writes the first as the family's model card.

(a) Accuracy of a single call, by model, task and temperature.
(b) Per task and budget: the best graph, chosen on one set of questions and scored on another, beside the best
    single call, vote and chain of one model, these chosen on the scored questions themselves (which favours them).
(c) How many solvers a learned fuser of the same model makes use of.

Samples are drawn once into a bank; votes and keep-the-more-confident chains are computed from it, graphs with
a learned refiner or fuser are executed. One unit is one solve by the smallest model on the same task.
``--transformers N`` compares greedy replies with Hugging Face transformers on N prompts of each model instead.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations_with_replacement, product
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from agentgraph.backends.embedded.llama import Llama
from agentgraph.prompt import embedded_text
from agentgraph.tasks import calc, recall

WEIGHTS = Path(__file__).parents[1] / "agentgraph" / "backends" / "embedded" / "weights"
MODELS = ("a-small", "a-medium", "a-large", "b-small", "b-medium", "b-large")
TEMPERATURES = (0.0, 0.3, 0.7, 1.0)
SAMPLES = {"small": 16, "medium": 8, "large": 4}
BUDGETS = (2, 4, 8, 16, 32)
MOST_NODES = 10
MOST_REFINES = 6
TASKS: dict[str, ModuleType] = {"calc": calc, "recall": recall}
QUESTION_TOKENS = {"calc": 18, "recall": 3}
EDGE_TOKENS = 4
Z95 = 1.96

Marks = NDArray[np.bool_]


@dataclass
class Entry:
    """A strategy: its price in units and its marks, shape (questions,)."""

    name: str
    units: float
    marks: Marks


@dataclass
class World:
    """One task with its questions, models and bank of samples."""

    task: str
    folder: Path
    choose: int
    score: int
    models: dict[str, Llama] = field(init=False)
    questions: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.models = {name: Llama.load(self.folder / name) for name in MODELS}
        rng = np.random.default_rng(20)
        self.questions = TASKS[self.task].sample_questions(rng, self.choose + self.score)

    @cached_property
    def gold(self) -> NDArray[np.int64]:
        """Right answers, shape (questions,)."""
        return np.array([int(TASKS[self.task].answer(question)) for question in self.questions])

    @cached_property
    def bank(self) -> dict[tuple[str, float], tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Answers (-1 garbled) and log-probabilities, (samples, questions), of each model and temperature."""
        found = {}
        for name, temperature in product(MODELS, TEMPERATURES):
            samples = range(SAMPLES[name.split("-")[1]])
            replies = [self.ask(name, "solve", [()] * len(self.questions), temperature, sample) for sample in samples]
            found[name, temperature] = (
                np.stack([answers for answers, _ in replies]),
                np.stack([log_probs for _, log_probs in replies]),
            )
        return found

    def ask(
        self,
        model: str,
        role: str,
        candidates: Sequence[Sequence[str]],
        temperature: float,
        sample: int,
        among: slice = slice(None),
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """One call per question: answers and log-probabilities, each (questions,)."""
        task = TASKS[self.task]
        stream = [MODELS.index(model), len(role), sample, round(10 * temperature)]
        questions = self.questions[among]
        # the view depends on the sample, not on the temperature
        views = np.random.default_rng([5, *stream[:3]]).integers(0, 2**62, len(self.questions))
        seeds = np.random.default_rng([6, *stream]).integers(0, 2**62, len(self.questions))
        replies = self.models[model].generate(
            [
                embedded_text(role, task.TAG, task.view(question, view), given)
                for question, view, given in zip(questions, views[among].tolist(), candidates, strict=True)
            ],
            temperatures=[temperature] * len(questions),
            seeds=seeds[among].tolist(),
            max_tokens=[task.MAX_OUTPUT_TOKENS] * len(questions),
        )
        answers = [task.extract(reply.text) for reply in replies]
        return (
            np.array([-1 if one is None else int(one) for one in answers]),
            np.array([reply.logprob for reply in replies]),
        )

    def units(self, model: str, parents: int = 0) -> float:
        """Price of one call, in solves by the smallest model."""
        return self._flops(model, parents) / self._flops(MODELS[0], 0)

    def _flops(self, model: str, parents: int) -> float:
        llama = self.models[model]
        size, layers, hidden = llama.parameters, llama.shape.layers, llama.shape.hidden
        read = 4 + EDGE_TOKENS * parents + QUESTION_TOKENS[self.task]
        write = TASKS[self.task].MAX_OUTPUT_TOKENS
        prefill = 2 * size * read + 2 * layers * hidden * read * (read + 1)
        return prefill + 2 * size * write + 2 * layers * hidden * write * (2 * read + write + 1)

    def members(self, mix: Sequence[str], temperature: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Answers and log-probabilities (nodes, questions) of the nodes of a multiset of models."""
        ranks = [mix[:i].count(model) for i, model in enumerate(mix)]
        pairs = [
            (self.bank[m, temperature][0][r], self.bank[m, temperature][1][r]) for m, r in zip(mix, ranks, strict=True)
        ]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    def combined(self, mix: Sequence[str], temperature: float) -> Iterator[tuple[str, Marks]]:
        """Marks of a vote, a confidence-weighted vote and a keep chain of a multiset of models."""
        answers, log_probs = self.members(mix, temperature)
        garbled = answers < 0
        confidence = np.where(garbled, 0.0, np.exp(log_probs))
        same = (answers[:, None] == answers[None]) & ~garbled[None]
        for rule, scores in (
            ("vote", same.sum(1).astype(float)),
            ("confidence vote", (same * confidence[None]).sum(1)),
            ("keep chain", confidence),
        ):
            winner = scores.argmax(0)
            yield rule, np.take_along_axis(answers, winner[None], 0)[0] == self.gold

    def fits(self, mix: Sequence[str]) -> bool:
        """Whether the bank has enough samples for a multiset of models."""
        return all(mix.count(model) <= SAMPLES[model.split("-")[1]] for model in set(mix))


def short(mix: Iterable[str]) -> str:
    """``2 a-small + b-medium`` for a multiset of models."""
    names = list(mix)
    return " + ".join(
        name if names.count(name) == 1 else f"{names.count(name)} {name}" for name in dict.fromkeys(names)
    )


def interval(marks: NDArray[np.float64] | Marks) -> tuple[float, float]:
    """Mean and half width of its 95 % interval."""
    values = np.asarray(marks, dtype=float)
    return float(values.mean()), float(Z95 * values.std(ddof=1) / len(values) ** 0.5)


def rivals(world: World) -> dict[str, list[Entry]]:
    """What one model can do: single calls, votes and chains, by kind."""
    found: dict[str, list[Entry]] = {}
    for model, temperature in product(MODELS, TEMPERATURES):
        price = world.units(model)
        most = min(SAMPLES[model.split("-")[1]], int(max(BUDGETS) / price))
        for n in range(1, most + 1):
            for rule, marks in world.combined((model,) * n, temperature):
                kind = "single" if n == 1 else rule
                name = f"{n} x {model} T={temperature}"
                found.setdefault(kind, []).append(Entry(name, n * price, marks))
        found.setdefault("refine chain", []).extend(refine_chains(world, model, temperature))
        found.setdefault("fuse by itself", []).extend(self_fusions(world, model, temperature))
    return found


def refine_chains(world: World, model: str, temperature: float) -> Iterator[Entry]:
    """Solve, then refine again and again with the same model."""
    answers = world.bank[model, temperature][0][0]
    units = world.units(model)
    for depth in range(1, MOST_REFINES + 1):
        units += world.units(model, 1)
        if units > max(BUDGETS):
            return
        given = [[f"{max(answer, 0):03d}"] for answer in answers.tolist()]
        answers, _ = world.ask(model, "refine", given, temperature, depth)
        yield Entry(f"{model} and {depth} refines T={temperature}", units, answers == world.gold)


def self_fusions(world: World, model: str, temperature: float) -> Iterator[Entry]:
    """Two or more solvers and a learned fuser, all the same model: a graph, but of one model."""
    for k in range(2, min(SAMPLES[model.split("-")[1]], MOST_NODES) + 1):
        units = k * world.units(model) + world.units(model, k)
        if units <= max(BUDGETS):
            marks = run_fuser(world, (model,) * k, model, temperature, temperature, slice(None))
            yield Entry(f"{k} x {model} -> fuse T={temperature}", units, marks)


def mixes(world: World) -> Iterator[Entry]:
    """Votes, confidence-weighted votes and keep chains of multisets of at least two models."""
    for n in range(2, MOST_NODES + 1):
        for mix in combinations_with_replacement(MODELS, n):
            units = sum(world.units(model) for model in mix)
            if units > max(BUDGETS) or len(set(mix)) == 1 or not world.fits(mix):
                continue
            for temperature in TEMPERATURES:
                for rule, marks in world.combined(mix, temperature):
                    yield Entry(f"{short(mix)}, {rule}, T={temperature}", units, marks)


def fused(world: World, screen: int, keep: int) -> list[Entry]:
    """Graphs of one to six solvers and a learned fuser; all screened on a few questions, the best run on all."""
    first: list[tuple[float, tuple[str, ...], str, float, float]] = []
    counts = [pair for pair in product(range(4), range(4)) if sum(pair) > 0]
    mixed = {(left,) * pair[0] + (right,) * pair[1] for left, right, pair in product(MODELS[:3], MODELS[3:], counts)}
    for mix, fuser in product(sorted(mixed), MODELS):
        units = sum(world.units(m) for m in mix) + world.units(fuser, len(mix))
        if units > 16 or not world.fits(mix):
            continue
        for hot, cold in ((1.0, 0.3), (0.3, 0.3)):
            marks = run_fuser(world, mix, fuser, hot, cold, slice(0, screen))
            first.append((float(marks.mean()), mix, fuser, hot, cold))
    entries: dict[str, Entry] = {}
    for budget in BUDGETS:
        affordable = [
            row for row in first if sum(world.units(m) for m in row[1]) + world.units(row[2], len(row[1])) <= budget
        ]
        for _, mix, fuser, hot, cold in sorted(affordable, reverse=True)[:keep]:
            name = f"{short(mix)} T={hot} -> fuse by {fuser} T={cold}"
            if name not in entries:
                units = sum(world.units(m) for m in mix) + world.units(fuser, len(mix))
                marks = run_fuser(world, mix, fuser, hot, cold, slice(None))
                entries[name] = Entry(name, units, marks)
    return list(entries.values())


def run_fuser(world: World, mix: Sequence[str], fuser: str, hot: float, cold: float, among: slice) -> Marks:
    """Marks of a fuser (with one parent, a refiner) over the solvers of a multiset."""
    answers, _ = world.members(mix, hot)
    given = [[f"{max(one, 0):03d}" for one in row] for row in answers[:, among].T.tolist()]
    role = "refine" if len(mix) == 1 else "fuse"
    return world.ask(fuser, role, given, cold, 0, among)[0] == world.gold[among]


def measure(task: str, folder: Path, choose: int, score: int) -> dict[str, object]:
    """Both tables of one task."""
    torch.set_num_threads(1)
    world = World(task, folder, choose, score)
    kinds = np.array([TASKS[task].kind(question) for question in world.questions])
    single = []
    for model, temperature in product(MODELS, TEMPERATURES):
        marks = world.bank[model, temperature][0][0] == world.gold
        by_kind = {str(kind): round(float(marks[kinds == kind].mean()), 4) for kind in TASKS[task].KINDS}
        mean, half = interval(marks)
        single.append(
            {
                "task": task,
                "model": model,
                "temperature": temperature,
                "accuracy": round(mean, 4),
                "interval95": round(half, 4),
                "by_kind": by_kind,
                "units": round(world.units(model), 3),
            }
        )
    against = rivals(world)
    with_fuser = fused(world, screen=200, keep=12)
    against["graph with a learned fuser"] = with_fuser
    graphs = [*mixes(world), *with_fuser, *(entry for entries in against.values() for entry in entries)]
    rows = [row for budget in BUDGETS for row in compare(budget, graphs, against, choose)]
    fusions = [
        {"name": entry.name, "units": round(entry.units, 2), "accuracy": round(float(entry.marks[choose:].mean()), 4)}
        for entry in against["fuse by itself"]
    ]
    return {
        "task": task, "choose": choose, "score": score,
        "single": single, "search": rows, "fuse_by_itself": fusions,
    }  # fmt: skip


def compare(
    budget: float, graphs: Sequence[Entry], against: dict[str, list[Entry]], choose: int
) -> Iterator[dict[str, object]]:
    """The best graph of a budget beside the best of each one-model kind."""
    best = max(
        (graph for graph in graphs if graph.units <= budget),
        key=lambda graph: (graph.marks[:choose].mean(), -graph.units),
    )
    scored = best.marks[choose:]
    mean, half = interval(scored)
    yield {
        "budget": budget, "kind": "graph", "name": best.name, "units": round(best.units, 2),
        "accuracy": round(mean, 4), "interval95": round(half, 4),
    }  # fmt: skip
    for kind, entries in against.items():
        within = [entry for entry in entries if entry.units <= budget]
        if not within:
            continue
        rival = max(within, key=lambda entry: float(entry.marks[choose:].mean()))
        lead, lead_half = interval(scored.astype(float) - rival.marks[choose:])
        yield {
            "budget": budget, "kind": kind, "name": rival.name, "units": round(rival.units, 2),
            "accuracy": round(float(rival.marks[choose:].mean()), 4),
            "graph_leads_by": round(lead, 4), "interval95": round(lead_half, 4),
        }  # fmt: skip


def single_table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown table of single-call accuracies: all questions (first kind / second kind)."""
    lines = [
        "| task | model | units | " + " | ".join(f"T={t}" for t in TEMPERATURES) + " |",
        "|---|---|---|" + "---|" * len(TEMPERATURES),
    ]
    for task, model in product(TASKS, MODELS):
        mine = [row for row in rows if row["task"] == task and row["model"] == model]
        cells = []
        for row in mine:
            parts = " / ".join(f"{share:.2f}" for share in row["by_kind"].values())  # type: ignore[attr-defined]
            cells.append(f"{row['accuracy']:.3f} ({parts})")
        lines.append(f"| {task} | {model} | {mine[0]['units']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def search_table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown table of the best graph and the rivals of each budget."""
    lines = [
        "| budget | what | units | accuracy | graph leads by (95 %) |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lead = ""
        if "graph_leads_by" in row:
            lead = f"{row['graph_leads_by']:+.3f} ± {row['interval95']:.3f}"
        lines.append(
            f"| {row['budget']} | {row['kind']}: {row['name']} | {row['units']} | {row['accuracy']:.3f} | {lead} |"
        )
    return "\n".join(lines)


def fusion_table(rows: Sequence[dict[str, object]]) -> str:
    """Markdown table of accuracy by model and number of solvers, at temperature 1."""
    widths = range(2, MOST_NODES + 1)
    lines = ["| model | " + " | ".join(f"k={k}" for k in widths) + " |", "|---|" + "---|" * len(widths)]
    found = {str(row["name"]): f"{row['accuracy']:.3f}" for row in rows}
    for model in MODELS:
        cells = [found.get(f"{k} x {model} -> fuse T=1.0", "") for k in widths]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_card(folder: Path, results: Sequence[dict[str, object]]) -> None:
    """Write ``card.json`` and ``MODEL_CARD.md`` beside the weights."""
    rows = [row for result in results for row in result["single"]]  # type: ignore[attr-defined]
    questions = {str(r["task"]): r["choose"] + r["score"] for r in results}  # type: ignore[operator]
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    hashes = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/model.safetensors"))
    }
    card = {
        "purpose": "trained for this demonstration",
        "questions": questions,
        "single_call": rows,
        "sha256": hashes,
        "training": training,
        "search": {str(result["task"]): result["search"] for result in results},
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    seeds = {model: record[-1]["seed"] for model, record in training.items()}
    cpu = sum(part["cpu_seconds"] for record in training.values() for part in record)
    brackets = " and ".join(f"{', '.join(task.KINDS)} for {name}" for name, task in TASKS.items())
    counts = ", ".join(f"{n} {name} questions" for name, n in questions.items())
    widest = max(float(row["interval95"]) for row in rows)
    text = f"""# The embedded family

Six tiny Llama models (two families, three sizes), trained for this demonstration: they know the two tasks
of `agentgraph.tasks.calc` and `agentgraph.tasks.recall`, one letter at a time, and nothing else. Trained from nothing by
`python -m agentgraph.backends.embedded.train --out FOLDER` in {cpu / 60:.0f} CPU minutes.
Family a is strong on odd factors and the first half of the names, family b on even factors and the second half.
No text from elsewhere was used. Calc questions below were held out of training; names cannot be.
This file is written by `benchmarks/family.py --card`.

Accuracy of a single call, in brackets by kind ({brackets}), on
{counts}; the 95 % interval is at most ± {widest:.3f}.
A unit is one solve by the smallest model on the same task.

{single_table(rows)}

Seeds: {", ".join(f"{model} {seed}" for model, seed in seeds.items())}.

sha256 of the weights:

{chr(10).join(f"- `{name}` {digest}" for name, digest in hashes.items())}
"""
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


def compare_transformers(folder: Path, prompts: int) -> dict[str, int]:
    """How many greedy replies differ from Hugging Face transformers', by model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rng = np.random.default_rng(3)
    texts = [
        embedded_text("solve", task.TAG, question)
        for task in TASKS.values()
        for question in task.sample_questions(rng, prompts // 2)
    ]
    different = {}
    for name in MODELS:
        ours = Llama.load(folder / name).generate(
            texts, temperatures=[0.0] * len(texts), seeds=[0] * len(texts), max_tokens=[20] * len(texts)
        )
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
        count = 0
        for text, reply in zip(texts, ours, strict=True):
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], return_tensors="pt", return_dict=True
            )
            out = model.generate(**ids, max_new_tokens=20, do_sample=False)
            theirs = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            count += theirs != reply.text
        different[name] = count
    return different


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    parser.add_argument("--choose", type=int, default=1000)
    parser.add_argument("--score", type=int, default=2000)
    parser.add_argument("--card", action="store_true")
    parser.add_argument("--transformers", type=int, default=0, metavar="N")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.transformers:
        torch.set_num_threads(1)
        print(compare_transformers(options.folder, options.transformers))
        return
    with ProcessPoolExecutor(len(TASKS)) as pool:
        waiting = [pool.submit(measure, task, options.folder, options.choose, options.score) for task in TASKS]
        results = [one.result() for one in waiting]
    print(f"(a) single calls on {options.choose + options.score} questions of each task\n")
    print(single_table([row for result in results for row in result["single"]]))  # type: ignore[attr-defined]
    for result in results:
        print(f"\n(b) {result['task']}: chosen on {options.choose}, scored on {options.score}\n")
        print(search_table(result["search"]))  # type: ignore[arg-type]
        print(f"\n(c) {result['task']}: k solvers of one model and its own learned fuser, all at T=1\n")
        print(fusion_table(result["fuse_by_itself"]))  # type: ignore[arg-type]
    if options.card:
        write_card(options.folder, results)


if __name__ == "__main__":
    main()
