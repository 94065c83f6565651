"""The Optuna mirror holds the archive's trials, and Optuna can read it."""

import json

import optuna
import pytest
from fakes import setup
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from agentgraph.mirror import mirror
from agentgraph.run import run


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna_reads_the_trials(tmp_path):
    settings = setup()
    archive = run(settings).archive
    path = tmp_path / "optuna.log"
    for _ in range(2):  # written again, not added to
        mirror(archive, settings.objective, path, "calc")
    study = optuna.load_study(study_name="calc", storage=JournalStorage(JournalFileBackend(str(path))))
    marked = [trial for trial in archive.trials if trial.marks]
    assert [trial.value for trial in study.trials] == [settings.objective.utility(trial) for trial in marked]
    assert [json.loads(trial.user_attrs["plan"]) for trial in study.trials] == [
        trial.plan.compact() for trial in marked
    ]
    assert study.best_value == max(trial.accuracy for trial in marked)
    assert study.trials[0].params["nodes"] == marked[0].plan.nodes
