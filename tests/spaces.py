"""Search spaces to test on, random tables, and every labelled graph of a tiny one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch

from agentgraph.budget import TTS_REFERENCE, Budget, Rates
from agentgraph.distribution import Distribution
from agentgraph.model import Model, Pool
from agentgraph.request import Settings
from agentgraph.roles.assistant import Assistant
from agentgraph.roles.confidence_vote import ConfidenceVote
from agentgraph.roles.fuser import Fuser
from agentgraph.roles.keep import Keep
from agentgraph.roles.vote import Vote
from agentgraph.space import Space, StageSpace
from agentgraph.tasks.base import Lengths
from agentgraph.tasks.calc import CalcStage
from agentgraph.walk import Draws

POOL = Pool(
    [
        Model("small", 28416, 2, 32, prompt_form="embedded"),
        Model("medium", 110080, 2, 64, prompt_form="embedded"),
        Model("large", 337344, 3, 96, prompt_form="embedded"),
    ]
)
PRICED = Pool(  # whichever is best in one resource is not in another
    [
        Model("small", 3e9, 28, 3072, usd=Rates(0.1, 0.01, 0.02), seconds=Rates(1.0, 0.0, 0.3)),
        Model("medium", 8e9, 32, 4096, usd=Rates(0.0, 0.002, 0.05), seconds=Rates(0.2, 0.02, 0.5)),
        Model("large", 70e9, 80, 8192, usd=Rates(0.3, 0.02, 0.01), seconds=Rates(0.1, 0.01, 0.1)),
    ]
)
ROLES = (
    Assistant(name="assistant"),
    Assistant(name="greedy", settings=Settings(temperature=0)),
    Fuser(name="fuser", settings=Settings(temperature=0.3)),
    Keep(name="keep"),
    Vote(name="vote"),
    ConfidenceVote(name="confidence_vote"),
)
SHORT = Lengths(prompt=5, output={"solve": 3, "solve/large": 7}, edge=2, word={"refine": 1, "fuse": 4})


def stage_space(nodes, *, roles=ROLES, pool=POOL, lengths=CalcStage.lengths, name="calc"):
    return StageSpace(name, tuple(roles), pool, nodes, lengths)


def space(nodes, units, *, stages=1, **settings):
    """A space of equal stages; the budget in units of one solve by the cheapest model."""
    made = tuple(stage_space(nodes, name=f"stage{s}", **settings) for s in range(stages))
    unit = Space.unit(made)
    return Space(made, Budget(units * unit, unit))


def limited(nodes, times, *, stages=1, samples=None, pool=PRICED, **settings):
    """A space with several limits: each resource is limited to so many ``times`` what the cheapest plan takes of it."""
    made = tuple(
        replace(stage_space(nodes, name=f"stage{s}", pool=pool, **settings), samples=samples or {})
        for s in range(stages)
    )
    limits = {}
    for name, factor in times.items():
        least = sum(min(getattr(price, name) for price in stage.solvers.values()) for stage in made)
        gift = TTS_REFERENCE * stages if name == "tts_units" else 0.0  # that a stage is given does not grow
        limits[name] = factor * (least + gift) - gift
    return Space(made, Budget(unit=Space.unit(made), **limits))


def random_tables(space, seed, *, spread=2.0):
    """A distribution with random logits."""
    generator = torch.Generator().manual_seed(seed)
    distribution = Distribution(space)
    for stage in distribution.stages:
        for name in ("edge_logits", "role_logits", "model_logits"):
            table = getattr(stage, name)
            noise = torch.randn(table.shape, dtype=torch.float64, generator=generator) * spread
            setattr(stage, name, table + noise)
    noise = torch.randn(len(space.stages), dtype=torch.float64, generator=generator)
    distribution.share_logits = distribution.share_logits + noise
    return distribution


def agrees(distribution, draws):
    """Whether what draws say of their log-probability, given the split, is what going through them again gives."""
    reported = torch.stack([draw.log_prob for draw in draws]).sum(0)
    by_split = distribution.log_probs(draws)
    log_splits = distribution.log_splits()[:, None]
    found = torch.isclose(by_split - log_splits, reported[None], rtol=0, atol=1e-9).any(0).all()
    whole = torch.log(by_split.exp().sum(0))
    return bool(reported.isfinite().all() & found & torch.allclose(distribution.log_prob(draws), whole, atol=1e-9))


def all_labelled(stage):
    """Every labelled graph whose slots all lead to slot 0, whatever roles and budget say, as one `Draws`."""
    n, r, m = stage.max_nodes, len(stage.roles), len(stage.pool)
    found = []
    for others in itertools.product((False, True), repeat=n - 1):
        slots = [0, *(s for s in range(1, n) if others[s - 1])]
        pairs = [(s, t) for s in slots for t in slots if t < s]
        for kept in itertools.product((False, True), repeat=len(pairs)):
            edges = [pair for pair, there in zip(pairs, kept, strict=True) if there]
            if any(s and all(source != s for source, _ in edges) for s in slots):
                continue
            for roles in itertools.product(range(r), repeat=len(slots)):
                options = [range(m) if stage.roles[role].needs_model else (0,) for role in roles]
                found += [(slots, edges, roles, models) for models in itertools.product(*options)]
    k = len(found)
    draws = Draws(
        edges=torch.zeros(k, n, n, dtype=torch.bool),
        present=torch.zeros(k, n, dtype=torch.bool),
        roles=torch.zeros(k, n, dtype=torch.int64),
        models=torch.zeros(k, n, dtype=torch.int64),
        log_prob=torch.zeros(k, dtype=torch.float64),
        price=torch.zeros(k, dtype=torch.float64),
    )
    for row, (slots, edges, roles, models) in enumerate(found):
        for slot, role, model in zip(slots, roles, models, strict=True):
            draws.present[row, slot] = True
            draws.roles[row, slot] = role
            draws.models[row, slot] = model
        for s, t in edges:
            draws.edges[row, s, t] = True
    return draws
