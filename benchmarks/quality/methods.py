"""Methods by name: an entry of ``conf/optimizer``, perhaps with overrides, ``tpe+settings.n_ei_candidates=48``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from agentgraph.backends.base import Backend
from agentgraph.config import build, load
from agentgraph.optimizers.base import Optimizer
from agentgraph.search import search

from .language import BACKEND, Language

RIVALS = ("random_search", "tpe", "tpe_tuned", "nsga2", "nsga2_tuned", "evolution", "reinforce")
OURS = "agent_reinforce+race=true"
SLOW = {"gp": 100}
"""Methods that run to so many trials only, and by default in the first of the worlds only: a fit takes seconds."""
ABLATIONS = {
    "race-off": "agent_reinforce",
    "contend-off": f"{OURS}+contend=0",
    "free-off": f"{OURS}+free=false",
    "screen-off": f"{OURS}+candidates=0",
    "mode-sample": f"{OURS}+mode=sample",
    "gradient-numeric": f"{OURS}+gradient=numeric",
    "gradient-both": f"{OURS}+gradient=both",
    "insight-1-off": f"{OURS}+insights=[2,3]",
    "insight-2-off": f"{OURS}+insights=[1,3]",
    "insight-3-off": f"{OURS}+insights=[1,2]",
    "textgrad": "textgrad",
    "maao": "maao",
}
"""Variants of ours by a short name, and the rivals that have its agent."""
MODEL = "claude"
"""The language model whose replies are kept."""
ASKING = {
    "zero_shot": f"zero_shot+agent=language_model+agent.model={MODEL}",
    "zero_shot_settings": f"zero_shot_settings+agent=language_model+agent.model={MODEL}",
    "language-model": f"agent_reinforce+agent=language_model+agent.model={MODEL}",
    "agent_tts-language-model": f"agent_tts+agent=language_model+agent.model={MODEL}",
}
"""Methods that ask a language model, by a short name: the rivals, and ours with it as agent."""

_LOOP = frozenset(inspect.signature(search).parameters) - {
    "space", "executor", "optimizer", "archive", "rounds", "seed", "began", "ended"
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A method with all its settings.

    Parameters
    ----------
    name
        As on the command line.
    optimizer
        Settings of the optimizer, as its yaml has them, with overrides.
    loop
        Arguments of `agentgraph.search.search` that differ from the harness's own; ``race=true`` is a race with its defaults,
        ``race.block=8`` one with another block.
    """

    name: str
    optimizer: dict[str, Any]
    loop: dict[str, Any]

    @classmethod
    def named(cls, name: str) -> Method:
        """The method of that name.

        Raises
        ------
        ConfigError
            If there is no such optimizer or key.
        """
        short, *more = name.split("+")
        base, *overrides = [*(ABLATIONS | ASKING).get(short, short).split("+"), *more]
        loop, rest = {}, []
        for override in overrides:
            key, _, value = override.partition("=")
            if key.partition(".")[0] in _LOOP:
                loop[key] = OmegaConf.create(f"x: {value}").x
            else:
                added = "++" if key.startswith("settings.") else ""  # keywords of a library need not be there before
                rest.append(override if key.split(".")[0] == "agent" else f"{added}optimizer.{override}")
        config = load("search", [f"optimizer={base}", *rest])
        OmegaConf.resolve(config.optimizer)
        return cls(name, dict(OmegaConf.to_container(config.optimizer)), loop)  # type: ignore[arg-type]

    @property
    def has_agent(self) -> bool:
        """Whether an agent is part of it."""
        return "agent" in self.optimizer

    @property
    def model(self) -> str | None:
        """The language model that it asks, if any."""
        return self.optimizer.get("agent", {}).get("model")

    def backends(self, language: Language) -> dict[str, Backend]:
        """What answers it in a search, by name."""
        return {BACKEND: language.backend(self.model)} if self.model else {}

    @property
    def most_trials(self) -> int | None:
        """Trials at which it is stopped whatever the budget, if any."""
        return SLOW.get(self.name.partition("+")[0])

    def loop_arguments(self) -> dict[str, Any]:
        """The loop's arguments as objects."""
        race = {key.partition(".")[2]: value for key, value in self.loop.items() if key.startswith("race.")}
        others = {key: value for key, value in self.loop.items() if key.partition(".")[0] != "race"}
        if race or self.loop.get("race"):
            from agentgraph.race import Race

            others["race"] = Race(**race)
        return others

    def build(self) -> Optimizer:
        """The optimizer, fresh."""
        settings = dict(self.optimizer)
        if self.model:
            agent = {key: value for key, value in settings["agent"].items() if key not in ("base_url", "api_key_env")}
            model = {"name": self.model, "parameters": 1.0, "backend": BACKEND, "fingerprint": self.model}
            settings["agent"] = {**agent, "model": {"_target_": "agentgraph.model.Model", "_partial_": False, **model}}
        made: Optimizer = build(OmegaConf.create(settings))
        return made
