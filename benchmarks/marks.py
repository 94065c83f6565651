"""Do our marks agree with recorded ones? ``python benchmarks/marks.py data=<folder of recorded answers>``.

Each line takes answers that models once gave (extracted, some cut to 40 characters), wraps each in a reply as models write it, and
sends it through the task's own extractor and mark; *agreement* is the share of answers with the mark that was recorded. *we 1*
and *we 0* count the two kinds of disagreement. Folders that are not there are left out with a line.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentgraph.tasks.base import Question, Task
from agentgraph.tasks.gsm8k import Gsm8k
from agentgraph.tasks.math500 import Math500
from agentgraph.tasks.mmlu import Mmlu
from agentgraph.tasks.mmlu_pro import MmluPro

Case = tuple[str, Question, bool]  # a reply, its question, the recorded mark


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a gzipped table or JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file) if ".csv" in path.name else map(json.loads, file)


def asked(path: Path, gold: str) -> dict[str, Question]:
    """Questions with gold answers, by the id that joins the tables."""
    return {row["qid"]: Question(row["qid"], "", str(row[gold])) for row in lines(path)}


def zeroeval(data: Path, task: str) -> Iterator[Case]:
    """44-51 models, one greedy answer each; the models whose regrade is off are left out."""
    folder = data / "zeroeval"
    usable = {row["model"] for row in lines(folder / "models.csv.gz") if row["grader_ok"] == "1"}
    questions = asked(folder / f"{task}_questions.jsonl.gz", "gold")
    for row in lines(folder / f"{task}_outcomes.csv.gz"):
        if row["model"] in usable and len(row["answer"]) < 40:  # longer ones were cut when they were recorded
            yield f"The answer is {row['answer']}", questions[row["qid"]], row["correct"] == "1"


def beam(data: Path) -> Iterator[Case]:
    """Qwen2.5-1.5B on MATH-500: samples and beam search."""
    questions = asked(data / "math500" / "test500.jsonl.gz", "answer")
    for row in lines(data / "math500_qwen1p5b_beam" / "outcomes.csv.gz"):
        yield f"so we get $\\boxed{{{row['extracted_answer']}}}$.", questions[row["qid"]], row["correct"] == "1"


def cascade(data: Path) -> Iterator[Case]:
    """gpt-4 and llama2-13b on GSM8K, four prompts, up to 40 samples."""
    for row in lines(data / "mot_cascade" / "gsm.jsonl.gz"):
        question = Question(row["qid"], "", str(row["gold"]))
        for sample in row["samples"].values():
            for answer, correct in zip(sample["answers"], sample["correct"], strict=True):
                yield f"Reasoning.\nAnswer: {answer}", question, bool(correct)


def mmlu_pro(data: Path) -> Iterator[Case]:
    """29 models' letters; '-' is a reply without one."""
    for row in lines(data / "mmlu_pro" / "predictions.csv.gz"):
        question = Question(row["question_id"], "", row["gold"])
        for _, said in list(row.items())[5:]:
            if said:
                text = f"The answer is ({said})." if said != "-" else "I cannot choose."
                yield (
                    f"Let's think. {text}",
                    question,
                    said == row["gold"],
                )  # recorded as letters, so this is a test of reading


def cascades_mmlu(data: Path) -> Iterator[Case]:
    """Nine models on MMLU, their letters and marks."""
    golds = {row["i"]: "ABCD"[row["answer"]] for row in lines(data / "mmlu" / "mmlu_cascades_train.jsonl.gz")}
    for row in lines(data / "llm_cascades" / "mmlu_train.jsonl.gz"):
        for said in row["models"].values():
            yield f"**{said['ans']}**", Question(str(row["i"]), "", golds[row["i"]]), bool(said["c"])


def solutions(data: Path) -> Iterator[Case]:
    """The worked solutions that MATH-500 itself gives: whole replies, all of them right."""
    for row in lines(data / "math500" / "test500.jsonl.gz"):
        yield row["solution"], Question(row["qid"], "", row["answer"]), True


def worked(data: Path) -> Iterator[Case]:
    """The worked solutions of GSM8K: whole replies, all of them right."""
    for row in lines(data / "gsm8k" / "test.jsonl.gz"):
        yield (
            row["answer"].replace("####", "So the answer is"),
            Question(row["qid"], "", row["final"].replace(",", "")),
            True,
        )


SETS: dict[str, tuple[Callable[[], Task], str, Callable[[Path], Iterator[Case]]]] = {
    "gsm8k solutions": (Gsm8k, "gsm8k", worked),
    "zeroeval gsm": (Gsm8k, "zeroeval", lambda data: zeroeval(data, "gsm")),
    "mot_cascade gsm": (Gsm8k, "mot_cascade", cascade),
    "math500 solutions": (Math500, "math500", solutions),
    "zeroeval math-l5": (Math500, "zeroeval", lambda data: zeroeval(data, "math_l5")),
    "math500 beam": (Math500, "math500_qwen1p5b_beam", beam),
    "llm_cascades mmlu": (Mmlu, "llm_cascades", cascades_mmlu),
    "mmlu_pro letters": (MmluPro, "mmlu_pro", mmlu_pro),
}


def main() -> None:
    """Print the table; ``show=<n>`` adds the first n disagreements of each set."""
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    if "data" not in given:
        sys.exit("usage: python benchmarks/marks.py data=<folder> [show=<n>] [only=<set>]")
    data, show = Path(given["data"]), int(given.get("show", 0))
    print(f"{'set':<20} {'answers':>8} {'agreement':>10} {'we 1':>6} {'we 0':>6} {'unread':>7}")
    for name, (make, folder, cases) in SETS.items():
        if given.get("only", name) != name:
            continue
        if not (data / folder).is_dir():
            print(f"{name:<20} left out: {data / folder} is not there")
            continue
        task, count, apart = make(), Counter[str](), list[str]()
        for reply, question, recorded in cases(data):
            answer = task.stages[0].extract(reply)
            ours = answer is not None and task.mark(answer, question) == 1.0
            count.update(["all", "unread"] if answer is None else ["all"])
            if ours != recorded:
                count["we 1" if ours else "we 0"] += 1
                apart.append(f"    {reply[-70:]!r} read as {answer!r}, gold {question.gold!r}: recorded {recorded:d}")
        share = 1 - (count["we 1"] + count["we 0"]) / max(1, count["all"])
        print(
            f"{name:<20} {count['all']:>8,} {share:>10.4f} {count['we 1']:>6} {count['we 0']:>6} {count['unread']:>7}",
            flush=True,
        )
        print("\n".join(dict.fromkeys(apart[:show])), end="\n" if show and apart else "")


if __name__ == "__main__":
    main()
