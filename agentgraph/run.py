"""A whole run: search, choice on validation questions, table on test questions, files."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from agentgraph.agents.evidence import task_text
from agentgraph.archive import Archive
from agentgraph.backends.base import Backend
from agentgraph.budget import RESOURCES, Budget, is_number
from agentgraph.errors import ConfigError
from agentgraph.evaluate import Candidate, Scored, evaluate
from agentgraph.execute import Counts, Deadlines, Executor
from agentgraph.front import Front, Measured, Point
from agentgraph.lengths import measured
from agentgraph.mirror import mirror
from agentgraph.model import Pool
from agentgraph.objectives.base import Objective, amount
from agentgraph.optimizers.base import Optimizer
from agentgraph.plan import Plan
from agentgraph.plan_file import PlanFile
from agentgraph.plan_format import Found, Score
from agentgraph.race import Race
from agentgraph.report import Row
from agentgraph.rivals import hand_wired
from agentgraph.roles.base import Role
from agentgraph.run_folder import RunFolder
from agentgraph.score import interval
from agentgraph.search import search
from agentgraph.space import Space
from agentgraph.stages import StageChoice, chosen, first_shares
from agentgraph.store import ReplyStore
from agentgraph.tasks.base import SPLITS, Task
from agentgraph.trial import Trial
from agentgraph.version import __version__
from agentgraph.watch import Progress, RoundSummary, Watcher

__all__ = ["Result", "Setup", "build_space", "run"]

FOUND: Final = "found plan"
DEFAULT_UNITS: Final = 8.0
"""Budget where none is given."""
VALIDATION, TEST = 1, 0
"""Replicates: validation asks everything afresh, so that luck in the search does not count twice."""


@dataclass(frozen=True)
class Setup:
    """Everything a run needs.

    Parameters
    ----------
    budget_units, budget_flops, budget_calls, budget_tokens, budget_usd, budget_seconds, budget_tts_units
        Limits of a plan's price for one question, one or more; units and FLOPs are the same resource, so at most one of
        these. A unit is a solve by the cheapest model; 8 of them if nothing is given.
    max_nodes
        Largest number of nodes of a graph.
    rounds, plans_per_round, questions_per_round
        Size of the search.
    finalists
        How many of the best plans are scored on validation questions; as many others of the front are too.
    race
        How the plans of a round compete; ``None`` marks all of them on the same questions.
    failure_share, outage
        Share of calls that may fail after retries before the run stops, in [0, 1]; seconds that a backend may be away, >= 0.
    deadlines
        How long a node and a question may take; ``None`` waits.
    stages
        What single stages have of models, roles and nodes, and their share of the budget at first, by name, see
        `agentgraph.stages.StageChoice`; what is not said is as for the whole search.
    hand_on
        Whether what a stage leaves of its share is the later stages' when plans are drawn.
    """

    task: Task
    pool: Pool
    backends: Mapping[str, Backend]
    roles: Sequence[Role]
    optimizer: Optimizer
    objective: Objective
    budget_units: float | None = None
    budget_flops: float | None = None
    budget_calls: float | None = None
    budget_tokens: float | None = None
    budget_usd: float | None = None
    budget_seconds: float | None = None
    budget_tts_units: float | None = None
    max_nodes: int = 8
    rounds: int = 10
    plans_per_round: int = 8
    questions_per_round: int = 64
    finalists: int = 8
    race: Race | None = None
    failure_share: float = 0.05
    outage: float = 60.0
    deadlines: Deadlines | None = None
    seed: int = 0
    stages: Mapping[str, object] | None = None
    hand_on: bool = False

    def __post_init__(self) -> None:
        for name, value in self.limits.items():
            if not is_number(value):
                raise ConfigError(f"budget.{name}={value!r} must be a number")
        if {"units", "flops"} <= self.limits.keys():
            raise ConfigError(
                f"budget.units={self.budget_units} with budget.flops={self.budget_flops}: give one of them, and null for the other"
            )
        for name in ("max_nodes", "rounds", "plans_per_round", "questions_per_round", "finalists", "seed"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if type(value) is not int or value < least:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")
        if not is_number(self.failure_share) or not 0 <= self.failure_share <= 1:
            raise ConfigError(f"failure_share={self.failure_share!r} must be in [0, 1]")
        if not is_number(self.outage) or self.outage < 0:
            raise ConfigError(f"outage={self.outage!r} must be 0 or more seconds")
        self.task.check()
        first_shares(self.stage_choices)
        for split in SPLITS:  # too few questions are said now, not after the search
            self.task.questions(split)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by the names that conf has below ``budget``."""
        given = {name: getattr(self, f"budget_{name}") for name in ("units", *RESOURCES)}
        return {name: value for name, value in given.items() if value is not None} or {"units": DEFAULT_UNITS}

    @property
    def stage_choices(self) -> dict[str, StageChoice]:
        """What each stage has, by name."""
        return chosen(self.stages, [stage.name for stage in self.task.stages])

    def budget(self, unit: float) -> Budget:
        """The limits, where a unit is that many FLOPs."""
        limits = {name: float(value) for name, value in self.limits.items()}
        if "units" in limits:
            limits["flops"] = limits.pop("units") * unit
        return Budget(unit=unit, **limits)


@dataclass(frozen=True)
class Result:
    """What a run found.

    Parameters
    ----------
    best
        The plan chosen on validation questions, with its scores.
    rows
        Test table: the found plan first, then the best hand-wired plan of each kind.
    archive
        Every trial.
    front
        Plans that no other beats in accuracy and in every cost, with what was measured of them.
    summary
        What ``summary.json`` holds.
    """

    best: PlanFile
    rows: Sequence[Row]
    archive: Archive
    front: Front
    summary: Mapping[str, Any] = field(repr=False)


def build_space(setup: Setup, executor: Executor) -> tuple[Space, list[str]]:
    """The search space, and notes on what was left out of it and why."""
    notes = []
    roles = list(setup.roles)
    lengths, pool = measured(executor, roles)  # first: asking shows what a server cannot do
    blind = sorted({m.name for m in setup.pool if not setup.backends[m.backend].has_logprobs} | executor.blind)
    if blind:
        dropped = [role.name for role in roles if role.needs_confidence]
        roles = [role for role in roles if not role.needs_confidence]
        if dropped:
            notes.append(f"left out {', '.join(dropped)}: no log-probabilities from {', '.join(blind)}")
    recorded = {model.name: setup.backends[model.backend].samples(model.served_name) for model in pool}
    samples = {name: count for name, count in recorded.items() if count is not None}
    choices = setup.stage_choices
    stages = tuple(
        choice.space(name, roles, pool, setup.max_nodes, table, samples)
        for (name, choice), table in zip(choices.items(), lengths, strict=True)
    )
    return Space(stages, setup.budget(Space.unit(stages)), first_shares(choices), setup.hand_on), notes


def run(setup: Setup, *, folder: RunFolder | None = None, watcher: Watcher | None = None) -> Result:
    """Search, choose, test and write; goes on where an earlier run in the same folder stopped."""
    store = ReplyStore(folder.replies if folder else None)
    watcher = watcher or Watcher()
    for backend in setup.backends.values():
        backend.log_folder = folder.path if folder else None
    with Executor(
        setup.task,
        setup.pool,
        {role.name: role for role in setup.roles},
        setup.backends,
        store,
        seed=setup.seed,
        failure_share=setup.failure_share,
        outage=setup.outage,
        deadlines=setup.deadlines,
    ) as executor:
        try:
            return _Run(setup, executor, folder, watcher).result()
        finally:
            watcher.stop()
            store.close()


class _Run:
    """One run in progress."""

    def __init__(self, setup: Setup, executor: Executor, folder: RunFolder | None, watcher: Watcher) -> None:
        self.setup, self.executor, self.folder, self.watcher = setup, executor, folder, watcher
        self.began = time.monotonic()
        executor.on_progress = self._progress
        measures = not all(stage.lengths.exact for stage in setup.task.stages)
        if measures:
            watcher.start(f"agentgraph search: {setup.task.name}", setup.rounds)
            watcher.phase("measure lengths", None)
        self.space, notes = build_space(setup, executor)
        if not measures:  # a budget that buys nothing is said before anything else
            watcher.start(f"agentgraph search: {setup.task.name}", setup.rounds)
        for note in notes:
            watcher.note(note)
        self.objective = setup.objective.with_unit(self.space.budget.unit)
        train = {question.id: question for question in setup.task.questions("train")}
        setup.optimizer.setup(
            self.space,
            self.objective,
            rounds=setup.rounds,
            call=executor.ask,
            look=lambda plan, ids: executor.known(plan, [train[name] for name in ids]),
        )
        setup.optimizer.introduce(task_text(setup.task), {q.id: (q.text, q.gold) for q in train.values()})
        state = folder.load_state() if folder else None
        self.archive = Archive(folder.trials if folder else None, keep=state["archive_size"] if state else 0)
        self.first = 0
        if state:
            self.first = state["rounds_done"]
            setup.optimizer.load_state(state["optimizer"], self.archive.trials)
            for trial in self.archive.trials:
                executor.learn(trial.plan, [train[name] for name in trial.marks])
            watcher.note(f"goes on after round {self.first} of {setup.rounds}, {len(executor.store)} replies stored")

    def result(self) -> Result:
        setup = self.setup
        search(
            self.space,
            self.executor,
            setup.optimizer,
            self.archive,
            rounds=range(self.first, setup.rounds),
            plans_per_round=setup.plans_per_round,
            questions_per_round=setup.questions_per_round,
            seed=setup.seed,
            race=setup.race,
            began=self._round_began,
            ended=self._round_ended,
        )
        searched = replace(self.executor.counts)
        finalists, rivals = self._candidates()
        validated = self._evaluate("validation", [*finalists, *rivals], VALIDATION)
        fitting = self._fitting(validated)
        winner = self._winner(fitting)
        shown = self._best_of_each_kind(validated, rivals, winner)
        tested = self._evaluate("test", [winner.candidate, *(scored.candidate for scored in shown)], TEST)
        best = self._plan_file(winner, tested[0])
        rows = self._rows(tested)
        front = self._front(fitting, {scored.candidate.plan.id for scored in validated})
        summary = self._summary(best, rows, tested, searched)
        if self.folder:
            self._write(self.folder, best, front, summary)
        return Result(best, rows, self.archive, front, summary)

    # The loop's events -----------------------------------------------------------------------------------------------

    def _round_began(self, round_: int, plans: Sequence[Plan]) -> None:
        self.watcher.phase(f"round {round_ + 1}/{self.setup.rounds}: {len(plans)} plans", None)

    def _round_ended(self, round_: int, trials: Sequence[Trial]) -> None:
        del trials  # the archive has them
        setup = self.setup
        if self.folder:
            report = setup.optimizer.report()
            if report:
                self.folder.write_feedback(round_, report)
            self.folder.save_state(
                rounds_done=round_ + 1,
                archive_size=self.archive.size,
                optimizer=setup.optimizer.state(),
                extra={"seed": setup.seed},
            )
        best = next(iter(self.archive.ranked(self.objective, self.space.budget)), None)
        score, low, high = interval(list(best.marks.values())) if best else (0.0, 0.0, 1.0)
        self.watcher.round_done(
            RoundSummary(
                round=round_ + 1,
                rounds=setup.rounds,
                best_plan=best.plan.id if best else "",
                best_score=score,
                low=low,
                high=high,
                price=self.space.budget.text(best.price) if best else "",
                plans=len(self.archive),
                calls_asked=self.executor.counts.asked,
                calls_made=self.executor.counts.made,
            )
        )
        if setup.optimizer.headline():
            self.watcher.note(setup.optimizer.headline())

    def _progress(self, counts: Counts) -> None:
        self.watcher.progress(
            Progress(
                calls_asked=counts.asked,
                calls_made=counts.made,
                tokens=counts.tokens,
                done_questions=counts.questions,
                total_questions=counts.questions_total,
                failures=counts.failed,
            )
        )

    # After the search ------------------------------------------------------------------------------------------------

    def _candidates(self) -> tuple[list[Candidate], list[Candidate]]:
        """The best plans, with others of the front from cheap to dear for whoever has another budget; and the rivals."""
        finalists = self.archive.ranked(self.objective, self.space.budget)[: self.setup.finalists]
        others = [trial for trial in self.archive.front(self.space.budget, doubt=1.0) if trial not in finalists]
        places = np.linspace(0, len(others) - 1, min(self.setup.finalists, len(others)))
        chosen = [*finalists, *(others[round(place)] for place in places)]
        rivals = [
            Candidate(rival.kind, rival.plan, rival.price, rival.roles)
            for rival in hand_wired(self.space, self.setup.task.name)
        ]
        return [Candidate(FOUND, trial.plan, trial.price) for trial in chosen], rivals

    def _evaluate(self, split: str, candidates: Sequence[Candidate], replicate: int) -> list[Scored]:
        questions = self.setup.task.questions(split)
        self.watcher.phase(f"{split}: {len(candidates)} plans on {len(questions)} questions", None)
        return evaluate(self.executor, candidates, questions, replicate=replicate)

    def _fitting(self, validated: Sequence[Scored]) -> list[Scored]:
        """Those that have marks, and of these the ones whose charge is within the budget; all if that is none."""
        marked = [scored for scored in validated if scored.known] or list(validated)
        return [scored for scored in marked if self.space.budget.allows(scored.charge)] or marked

    def _winner(self, fitting: Sequence[Scored]) -> Scored:
        def rank(scored: Scored) -> tuple[float, ...]:
            candidate = scored.candidate
            return *self.objective.rank(scored.accuracy, scored.charge, candidate.price), -candidate.plan.nodes

        winner = max(fitting, key=rank)
        if not self.objective.met(winner.charge):
            self.watcher.note(f"no validated plan keeps to the objective ({self.objective}); the nearest is taken")
        return winner

    def _utility(self, scored: Scored) -> float:
        return self.objective.value(scored.accuracy, scored.charge)

    def _best_of_each_kind(
        self, validated: Sequence[Scored], rivals: Sequence[Candidate], winner: Scored
    ) -> list[Scored]:
        """For each kind of rival the one that does best on validation questions; their charge may exceed the budget."""
        best: dict[str, Scored] = {}
        names = {rival.name for rival in rivals}
        for scored in validated:
            name = scored.candidate.name
            if (
                scored.known
                and name in names
                and (name not in best or self._utility(scored) > self._utility(best[name]))
            ):
                best[name] = scored
        return [scored for scored in best.values() if scored is not winner]

    def _rows(self, tested: Sequence[Scored]) -> list[Row]:
        budget, unit, resources = self.space.budget, self.space.budget.unit, self.objective.resources
        rows = []
        for i, scored in enumerate(tested):
            mean, low, high = scored.interval()
            difference = scored.less(tested[0]) if i else None
            name = (
                scored.candidate.name if i or scored.candidate.name == FOUND else f"{FOUND} ({scored.candidate.name})"
            )
            rows.append(
                Row(
                    name=name,
                    accuracy=mean,
                    low=low,
                    high=high,
                    price_units=scored.candidate.price.flops / unit,
                    charge_units=scored.charge.flops / unit,
                    difference=difference,
                    note=_wiring(scored.candidate.plan) + budget.note(scored.charge),
                    found=i == 0,
                    amounts={key: amount(scored.charge, key, unit) for key in resources if key != "units"},
                    utility=self._utility(scored) if resources else None,
                )
            )
        return rows

    def _plan_file(self, winner: Scored, tested: Scored) -> PlanFile:
        scores = [
            _score(split, Measured.of(scored.known or [0.0], scored.charge), replicate)
            for split, scored, replicate in (("validation", winner, VALIDATION), ("test", tested, TEST))
        ]
        return self._file_of(winner.candidate, scores)

    def _file_of(self, candidate: Candidate, scores: Sequence[Score]) -> PlanFile:
        setup = self.setup
        by_hand = "" if candidate.name == FOUND else f", hand-wired {candidate.name}"
        return PlanFile.make(
            candidate.plan,
            task=setup.task.name,
            stage_names=[stage.name for stage in setup.task.stages],
            roles={**{role.name: role for role in setup.roles}, **candidate.roles},
            models={model.name: model for stage in self.space.stages for model in stage.pool},
            budget=self.space.budget,
            price=candidate.price,
            scores=scores,
            **self._of_stages(candidate.plan),
            found=Found(
                optimizer=type(setup.optimizer).__name__ + by_hand,
                seed=setup.seed,
                rounds=setup.rounds,
                plans=len(self.archive),
                agentgraph=__version__,
            ),
        )

    def _of_stages(self, plan: Plan) -> dict[str, Sequence[float]]:
        """Share, budget and price of each stage, where there are several."""
        stages = self.space.stages
        if len(stages) == 1:
            return {}
        shares, limit = self.space.split(plan), self.space.budget.limits.get("flops")
        prices = [stage.price(graph).flops for stage, graph in zip(stages, plan.stages, strict=True)]
        budgets = [share * limit for share in shares] if limit else []
        return {"stage_shares": shares, "stage_prices": prices, "stage_budgets": budgets}

    def _front(self, fitting: Sequence[Scored], validated: Collection[str]) -> Front:
        """Of what was validated and fits, and of the archive's front as far as it was not validated."""
        points = [self._point(scored.candidate, self.archive.of(scored.candidate.plan), scored) for scored in fitting]
        for trial in self.archive.front(self.space.budget):
            if trial.plan.id not in validated:
                points.append(self._point(Candidate(FOUND, trial.plan, trial.price), trial, None))
        return Front.of(points)

    def _point(self, candidate: Candidate, trial: Trial | None, scored: Scored | None) -> Point:
        searched = Measured.of(list(trial.marks.values()), trial.charge) if trial else None
        validated = Measured.of(scored.known or [0.0], scored.charge) if scored else None
        both = (("train", searched, 0), ("validation", validated, VALIDATION))
        scores = [_score(split, seen, replicate) for split, seen, replicate in both if seen]
        plan = self._file_of(candidate, scores)
        return Point(plan=plan, price=candidate.price, searched=searched, validated=validated)

    def _summary(
        self, best: PlanFile, rows: Sequence[Row], tested: Sequence[Scored], searched: Counts
    ) -> dict[str, Any]:
        counts = self.executor.counts
        return {
            "task": self.setup.task.name,
            "seed": self.setup.seed,
            "rounds": self.setup.rounds,
            "plans": len(self.archive),
            "budget": best.budget.model_dump(),
            "objective": str(self.objective),
            "best": best.plan().id,
            "test": [asdict(row) for row in rows],
            "outcomes": {row.name: dict(scored.outcomes) for row, scored in zip(rows, tested, strict=True)},
            "failures": {row.name: scored.failures for row, scored in zip(rows, tested, strict=True)},
            "calls_asked": counts.asked,
            "calls_made": counts.made,
            "calls_failed": counts.failed,
            "calls_failed_by_kind": dict(sorted(counts.failures.items())),
            "calls_retried_by_kind": dict(sorted(counts.retries.items())),
            "calls_doubled": counts.doubled,
            "calls_late": counts.late,
            "flops_spent": counts.flops,
            "tokens_spent": counts.tokens,
            "reasoning_tokens_spent": counts.reasoning_tokens,
            "agent_calls": counts.agent_calls,
            "agent_tokens": counts.agent_tokens,
            "agent_rejects": dict(sorted(self.setup.optimizer.rejects.items())),
            "search_only": {
                "question_evaluations": sum(len(trial.marks) for trial in self.archive.trials),
                **{key: getattr(searched, key) for key in ("looked", "asked", "made", "failed", "tokens", "flops")},
            },
            "seconds": round(time.monotonic() - self.began, 1),
        }

    def _write(self, folder: RunFolder, best: PlanFile, front: Front, summary: Mapping[str, Any]) -> None:
        best.write(folder.best)
        front.write(folder.front)
        folder.write_json(folder.summary, summary)
        mirror(self.archive, self.objective, folder.study, self.setup.task.name)


def _wiring(plan: Plan) -> str:
    """Nodes, roles and models of each stage."""
    parts = []
    for graph in plan.stages:
        models = ", ".join(sorted({node.model for node in graph.nodes if node.model}))
        roles = ", ".join(dict.fromkeys(node.role for node in graph.nodes))
        parts.append(f"{len(graph.nodes)} nodes: {roles}; {models}")
    return " | ".join(parts)


def _score(split: str, seen: Measured, replicate: int) -> Score:
    return Score(
        split=split,  # type: ignore[arg-type]  # one of the three splits
        accuracy=seen.accuracy,
        low=seen.low,
        high=seen.high,
        questions=seen.questions,
        replicate=replicate,
        charge_flops=seen.charge.flops,
        charge_usd=seen.charge.usd,
        charge_seconds=seen.charge.seconds,
    )
