"""The command line: ``agentgraph search | pick | replay | verify | fit | show | check``, with Hydra underneath."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentgraph.errors import AgentGraphError, ConfigError
from agentgraph.version import __version__

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from agentgraph.setup import Setup

__all__ = ["main"]

HELP: Final = f"""agentgraph {__version__}: find the collaboration graph of language models that answers best within a budget

  agentgraph search [key=value …]               search, test, and export the best plan
  agentgraph search run=<folder>                go on where an earlier search stopped
  agentgraph pick run=<folder> budget.units=4   another plan of that search, for another budget
  agentgraph replay plan=best.json [key=value]  run a found plan on questions
  agentgraph verify run=<folder>                does a search come to the same again, from its replies alone
  agentgraph fit run=<folder>                   how the best plan grows with the budget, how votes saturate
  agentgraph show plan=best.json [out=p.svg]    draw a plan: tree, .mmd, .svg or .png
  agentgraph check [key=value …]                are the models there, and what does a solve by each cost

Try: agentgraph search task=recall budget.units=4
Each command has --help; search also --cfg job (show all settings) and --multirun (run several: seed=0,1,2).
"""
_FLAGS: Final = (
    "--help",
    "-h",
    "--hydra-help",
    "--cfg",
    "-c",
    "--multirun",
    "-m",
    "--info",
    "-i",
    "--shell-completion",
)


def main() -> None:
    """Entry point of the console script."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print(HELP)
        return
    if arguments[0] == "--version":
        print(f"agentgraph {__version__}")
        return
    # A cluster that wants its machine back is obeyed as Ctrl-C is: what is in flight is waited for and stored.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _dispatch(arguments[0], arguments[1:])
    except AgentGraphError as error:
        print(f"agentgraph: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nagentgraph: stopped", file=sys.stderr)
        sys.exit(130)


def _dispatch(command: str, arguments: list[str]) -> None:
    commands = {
        "search": _search,
        "pick": _pick,
        "replay": _replay,
        "verify": _verify,
        "fit": _fit,
        "show": _show,
        "check": _check,
    }
    if command not in commands:
        raise ConfigError(f"{command!r} is no command; there are {', '.join(commands)} (agentgraph --help)")
    from agentgraph.config import complete, conf_folder, load, prepared

    arguments = prepared(arguments, command)
    folder = next((a.removeprefix("run=") for a in arguments if a.startswith("run=")), "null")
    if command == "search" and folder not in ("", "null"):
        _go_on(Path(folder).expanduser(), [a for a in arguments if not a.startswith("run=")])
        return
    if not any(argument.split("=")[0] in _FLAGS for argument in arguments):
        complete(command, load(command, arguments))  # Hydra reports a wrong key over many lines; this does it in one
    import hydra

    sys.argv = [f"agentgraph {command}", *arguments]
    hydra.main(version_base="1.3", config_path=str(conf_folder().resolve()), config_name=command)(
        _guarded(commands[command])
    )()


def _guarded(command: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """The command with its errors as one line: inside Hydra they would come with a traceback."""

    def run(config: DictConfig) -> None:
        try:
            command(config)
        except AgentGraphError as error:
            print(f"agentgraph: {error}", file=sys.stderr)
            sys.exit(1)

    return run


def _search(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from agentgraph.config import build_search
    from agentgraph.run_folder import RunFolder
    from agentgraph.store import write_atomically

    setup = build_search(config.copy())
    hydra = HydraConfig.get()
    folder = RunFolder(Path(hydra.runtime.output_dir))
    with open_dict(config):
        config.replay_with = _task_and_models(hydra.runtime.choices, list(hydra.overrides.task))
    write_atomically(folder.config, _kept(config, setup).encode())
    try:
        _run(setup, folder, config.replay_with)
    except AgentGraphError:
        folder.remove_unused()
        raise


def _kept(config: DictConfig, setup: Setup) -> str:
    """What of a run's settings its folder keeps, as YAML."""
    from omegaconf import OmegaConf

    kept = config.copy()
    given = {str(key): value for key, value in OmegaConf.to_container(config.task).items()}  # type: ignore[union-attr]
    task = setup.task.kept(given)
    changed = [f"task.{key}=" for key in given if task[key] != given[key]]
    OmegaConf.update(kept, "task", task, merge=False)
    kept.replay_with = [told for told in config.replay_with if not told.startswith(tuple(changed))]
    return OmegaConf.to_yaml(kept)


def _go_on(path: Path, overrides: list[str]) -> None:
    """Continue a run with its own settings; only ``rounds`` may grow, and ``cluster`` change: it decides nothing."""
    from omegaconf import OmegaConf

    from agentgraph.config import build_search, read_config
    from agentgraph.run_folder import RunFolder
    from agentgraph.store import write_atomically

    config = read_config(_run_path(path) / "config.yaml")
    elsewhere = [override for override in overrides if override.startswith(("cluster=", "cluster."))]
    if elsewhere:
        _move(config, elsewhere)
    for override in overrides:
        if override in elsewhere:
            continue
        key, _, value = override.partition("=")
        known = OmegaConf.select(config, key)
        given = OmegaConf.from_dotlist([f"value={value}"]).value
        if key == "rounds" and isinstance(given, int) and given >= config.rounds:
            config.rounds = given
        elif key == "task.function" and "function" in config.task and known is None:  # which the folder does not keep
            config.task.function = given
        elif given != known:
            raise ConfigError(
                f"run={path} was started with {key}={known}, got {override}; a run goes on with its own settings "
                f"(only rounds may grow, and cluster change), so start a new one"
            )
    setup = build_search(config.copy())
    folder = RunFolder(path)
    write_atomically(folder.config, _kept(config, setup).encode())
    _run(setup, folder, config.replay_with)


def _move(config: DictConfig, overrides: list[str]) -> None:
    """Have a run go on elsewhere: its settings of the cluster, changed."""
    from omegaconf import OmegaConf

    from agentgraph.config import load

    before = config.get("cluster") or {}
    kept = [f"cluster.{key}={'null' if value is None else value}" for key, value in before.items() if key != "_target_"]
    chosen = any(override.startswith("cluster=") for override in overrides)
    told = overrides if chosen else [*(["cluster=ray"] if before else []), *kept, *overrides]
    OmegaConf.update(config, "cluster", load("search", told).cluster, merge=False)


def _run(setup: Any, folder: Any, replay_with: Sequence[str]) -> None:  # noqa: ANN401  Setup and RunFolder, imported late
    from agentgraph.draw import tree_text
    from agentgraph.report import table
    from agentgraph.run import run
    from agentgraph.watch import choose

    try:
        result = run(setup, folder=folder, watcher=choose(sys.stderr))
    except KeyboardInterrupt:
        again = shlex.join(["agentgraph", "search", f"run={folder.path}"])
        print(f"\nagentgraph: stopped; what was answered is stored, go on with: {again}", file=sys.stderr)
        sys.exit(130)
    best, summary = result.best, result.summary
    print(
        f"\nTest questions: {best.scores[-1].questions} (used for nothing else). Budget {best.budget.budget().text()}.\n"
    )
    table(result.rows, sys.stdout)
    print(f"\nThe found plan, by {best.found.optimizer}:\n\n{tree_text(best)}")
    saved = 1 - summary["calls_made"] / max(1, summary["calls_asked"])
    alone = summary["search_only"]
    print(
        f"The search alone: {summary['plans']} plans, {alone['question_evaluations']:,} question evaluations, {alone['made']:,} "
        f"calls made; {alone['looked']:,} more marks were read from earlier calls for nothing"
    )
    print(
        f"With validation and test: {summary['calls_asked']:,} calls needed, {summary['calls_made']:,} made "
        f"({saved:.0%} had been made before), {summary['calls_failed']} failed, "
        f"{summary['tokens_spent']:,} tokens{_trouble(summary)}; the agent made {summary['agent_calls']} calls of "
        f"{summary['agent_tokens']:,} tokens; {summary['seconds']} s"
    )
    print(f"Files: {folder.path}")
    print(f"Replay: agentgraph replay {shlex.join([f'plan={folder.best}', *replay_with])}")


def _trouble(summary: Mapping[str, Any]) -> str:
    """What went wrong with calls and was mended or given up, by kind; '' if nothing did."""
    parts = []
    for what in ("failed", "retried"):
        kinds = summary[f"calls_{what}_by_kind"]
        parts += [f"{what}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)] if kinds else []
    return f" ({'; '.join(parts)})" if parts else ""


def _task_and_models(choices: Mapping[str, str | None], overrides: Sequence[str]) -> list[str]:
    """Overrides that make a replay use the run's task and models, as they would be typed."""
    path = next((o.removeprefix("models.path=") for o in overrides if o.startswith("models.path=")), "")
    models = [] if choices["models"] == "embedded" else [f"models={path or choices['models']}"]
    bare = {o: o.lstrip("+~") for o in overrides}  # +key=… adds, ~key removes
    given = [o for o in overrides if bare[o].startswith("task.") or (bare[o].startswith("models.") and not path)]
    return [f"task={choices['task']}", *models, *given]


def _pick(config: DictConfig) -> None:
    from agentgraph.config import build, read_config
    from agentgraph.draw import tree_text
    from agentgraph.pick import pick
    from agentgraph.report import table

    folder = Path(str(config.run)).expanduser()
    picked = pick(folder, dict(config.budget), build(config.objective))
    out = folder / "picked.json" if config.out is None else Path(str(config.out)).expanduser()
    picked.plan.write(out)
    print(f"Front of {folder}; the picked point is marked. Accuracy on validation questions.\n")
    table(picked.rows, sys.stdout)
    if picked.unvalidated:
        print(f"{picked.unvalidated} more points were seen by the search only; front.json has them")
    print(f"\nThe picked plan, by {picked.plan.found.optimizer}:\n\n{tree_text(picked.plan)}")
    settings = folder / "config.yaml"
    replay_with = read_config(settings).replay_with if settings.exists() else [f"task={picked.plan.task}"]
    print(f"Replay: agentgraph replay {shlex.join([f'plan={out}', *replay_with])}")


def _replay(config: DictConfig) -> None:
    from agentgraph.config import build, build_deadlines, build_models
    from agentgraph.execute import Executor
    from agentgraph.plan_file import PlanFile
    from agentgraph.replay import replay
    from agentgraph.report import table
    from agentgraph.store import ReplyStore

    plan_path = Path(str(config.plan)).expanduser()
    plan_file = PlanFile.read(plan_path)
    task = build(config.task)
    pool, backends = build_models(config.models, config.cluster)
    beside = plan_path.parent / "replies.jsonl"
    path = (beside if beside.exists() else None) if config.store == "auto" else config.store
    seed = plan_file.found.seed if config.seed == "auto" else config.seed
    store = ReplyStore(Path(path) if path else None)
    with (
        closing(store),
        Executor(
            task,
            pool,
            {},
            backends,
            store,
            seed=seed,
            failure_share=config.failure_share,
            outage=config.outage,
            deadlines=build_deadlines(config.deadline),
        ) as executor,
    ):
        result = replay(
            plan_file, executor, split=config.split, replicate=config.replicate, replace=dict(config.replace)
        )
        counts = executor.counts
    print(f"Plan {plan_path}, task {task.name}, {config.split} questions, replicate {config.replicate}\n")
    table([result.row()], sys.stdout)
    price = result.scored.candidate.price
    if not result.budget.allows(price):
        print(f"\nNote: here it costs {result.budget.text(price)}, more than its budget")
    print(
        f"\n{counts.asked:,} calls needed, {counts.made:,} made, {counts.failed} failed; outcomes: {result.outcomes()}"
    )
    for score in plan_file.scores:
        if score.split == config.split:
            print(
                f"When it was found: {score.accuracy:.4f} [{score.low:.4f}, {score.high:.4f}] on {score.questions} "
                f"{score.split} questions; now {result.scored.accuracy:.4f}"
            )


def _verify(config: DictConfig) -> None:
    from agentgraph.config import build_search, read_config
    from agentgraph.run_folder import RunFolder
    from agentgraph.verify import verify
    from agentgraph.watch import choose

    path = _run_path(config.run)
    verified = verify(build_search(read_config(path / "config.yaml")), RunFolder(path), choose(sys.stderr))
    print(
        f"{verified.trials:,} lines of the archive, {verified.calls:,} calls needed, all from the store; the same as in {path}:"
    )
    for name, equal in verified.equal.items():
        print(f"  {name:<14} {'yes, byte for byte' if equal else 'NO'}")
    if not all(verified.equal.values()):
        sys.exit(1)


def _fit(config: DictConfig) -> None:
    import json

    from omegaconf import ListConfig

    from agentgraph.archive import Archive
    from agentgraph.plan_file import PlanFile
    from agentgraph.run_folder import RunFolder
    from agentgraph.scaling import laws, plot, shares, table

    given = list(config.run) if isinstance(config.run, ListConfig) else [config.run]
    folders = [RunFolder(_run_path(path)) for path in given]
    for path, folder in zip(given, folders, strict=True):
        if not folder.summary.exists():
            raise ConfigError(f"run={path} has no summary.json: the search is not finished; go on with search run=…")
    if len(folders) > 1:
        found = shares([PlanFile.read(folder.best) for folder in folders])
    else:
        unit = float(json.loads(folder.summary.read_text(encoding="utf-8"))["budget"]["unit_flops"])
        trials = Archive(folder.trials, keep=folder.trials.stat().st_size).trials
        found = laws(trials, unit, seed=config.seed)
    for row in table(found):
        print(f"{row['what']:<44} {row['law']:<32} {row['constants']}")
        if row["doubt"]:
            print(f"{'':<44} not to be relied on: {row['doubt']}")
    if config.plot:
        for path in plot(found, folders[0].path / "fits"):
            print(path)


def _run_path(given: object) -> Path:
    """The folder of a search."""
    path = Path(str(given)).expanduser()
    if not (path / "config.yaml").exists():
        raise ConfigError(f"run={path} is no run folder: it has no config.yaml; name the folder of an earlier search")
    return path


def _show(config: DictConfig) -> None:
    from agentgraph.draw import picture, tree, tree_text
    from agentgraph.plan_file import PlanFile

    plan_file = PlanFile.read(Path(str(config.plan)).expanduser())
    if config.out is not None:
        picture(plan_file, Path(str(config.out)).expanduser())
        print(config.out)
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(tree(plan_file))
    else:
        print(tree_text(plan_file), end="")


def _check(config: DictConfig) -> None:
    from agentgraph.check import check
    from agentgraph.config import build, build_models

    pool, backends = build_models(config.models, config.cluster)
    good = check(build(config.task), pool, backends, print)
    if not good:
        sys.exit(1)
