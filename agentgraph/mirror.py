"""An Optuna study of the finished trials, for optuna-dashboard and Optuna's plots; a mirror, never read back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from agentgraph.archive import Archive
from agentgraph.objectives.base import Objective

__all__ = ["mirror"]


def mirror(archive: Archive, objective: Objective, path: Path, name: str) -> None:
    """Write every trial with marks to an Optuna journal, replacing what is there.

    Open it with ``optuna-dashboard optuna.log`` or
    ``optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend("optuna.log")))``.
    """
    import optuna
    from optuna.distributions import IntDistribution
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental notices of the storage
        study = optuna.create_study(
            study_name=name, direction="maximize", storage=JournalStorage(JournalFileBackend(str(path)))
        )
        trials = []
        for trial in archive.trials:
            if not trial.marks:
                continue
            shape = {
                "nodes": sum(len(graph.nodes) for graph in trial.plan.stages),
                "width": max(graph.width for graph in trial.plan.stages),
                "depth": max(graph.depth for graph in trial.plan.stages),
            }
            trials.append(
                optuna.trial.create_trial(
                    value=objective.utility(trial),
                    params=shape,
                    distributions={key: IntDistribution(0, 1000) for key in shape},
                    user_attrs={
                        "plan": json.dumps(trial.plan.compact()),
                        "round": trial.round,
                        "questions": len(trial.marks),
                        "price_flops": trial.price.flops,
                        "charge_flops": trial.charge.flops,
                    },
                )
            )
        study.add_trials(trials)
