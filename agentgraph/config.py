"""From conf to objects: the only module, beside the command line, that knows Hydra and OmegaConf."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agentgraph.backends.base import Backend
from agentgraph.errors import AgentGraphError, ConfigError
from agentgraph.model import Model, Pool
from agentgraph.request import stable_hash
from agentgraph.roles.base import Role
from agentgraph.tasks.base import Task

if TYPE_CHECKING:
    from agentgraph.node_run import Deadlines
    from agentgraph.race import Race
    from agentgraph.setup import Setup

__all__ = [
    "build_models",
    "build_search",
    "catalog",
    "conf_folder",
    "load",
    "load_models",
    "load_role",
    "load_task",
    "options",
    "read_config",
]

_SERVER_KEYS: Final = ("api_key_env", "limit", "timeout", "logprobs", "verify_tls", "retries", "extra_body")
_CREDENTIALS: Final = re.compile(r"://[^/@\s]+@")


def conf_folder() -> Path:
    """The folder ``conf``: inside the package (wheel) or beside it (checkout)."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def options(group: str) -> list[str]:
    """Names that a group of conf offers."""
    return sorted(path.stem for path in (conf_folder() / group).glob("*.yaml"))


def load(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the settings of a command.

    Parameters
    ----------
    name
        'search', 'pick', 'replay', 'show' or 'check'.
    overrides
        As on the command line, ``key=value``.

    Raises
    ------
    ConfigError
        For an unknown key or option, in one line that says what there is.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            return compose(name, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error, name)) from error


def _one_line(error: Exception, name: str) -> str:
    """Hydra's message, shortened, with the keys or options that there are."""
    text = " ".join(str(error).split())
    option = re.search(r"Could not (?:find|load) '(\w+)/([^']+)'", text)
    if option:
        return f"{option[1]}={option[2]} is unknown; there are {', '.join(options(option[1]))}"
    key = re.search(r"Could not (?:override|append) '([^']+)'", text)
    if key:
        keywords = re.match(r".*\.settings\b", key[1])  # what goes on to a library: any of its keywords
        if keywords:
            return f"{key[1]!r} has no such entry yet; to add one, write +{keywords[0]}.<keyword>=<value>"
        groups = sorted(path.name for path in conf_folder().iterdir() if path.is_dir())
        return f"the key {key[1]!r} is unknown; see 'agentgraph {name} --help' (groups: {', '.join(groups)})"
    return text.split(" Set the environment variable")[0]


def complete(name: str, config: DictConfig) -> None:
    """Refuse settings that leave out something that has no default.

    Raises
    ------
    ConfigError
        Naming the keys to give.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"{', '.join(f'{key}=…' for key in missing)} must be given; see 'agentgraph {name} --help'")


def build(config: Any) -> Any:  # noqa: ANN401  whatever `_target_` names
    """Instantiate a part of the settings; errors of ours come through as they are.

    Raises
    ------
    ConfigError
        If a key is missing or does not fit.
    """
    try:
        return instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, AgentGraphError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from error
        raise ConfigError(" ".join(str(error).split())) from error
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error


def build_models(config: DictConfig, cluster: DictConfig | None = None) -> tuple[Pool, dict[str, Backend]]:
    """The pool and its backends, from an entry of ``conf/models`` or a user's file.

    Members with a ``base_url`` share one client for each server; others name one of ``backends``. Where a member says neither, the
    entry's own ``base_url`` or ``backend`` holds for it; what it does not say of its size is taken from ``conf/catalog.yaml``.
    With an entry of ``conf/cluster`` that names one, the backends answer there.
    """
    if "_target_" in config:  # an entry of conf that makes pool and backends by itself
        if cluster:
            raise ConfigError("these models answer from a file of this machine; choose cluster=none")
        return cast("tuple[Pool, dict[str, Backend]]", build(config))
    entry = _models_entry(config)
    hosts = {name: dict(spec) for name, spec in (entry.get("backends") or {}).items()}
    members = _members(entry)
    for name, spec in members.items():
        _place(name, spec, entry, hosts)
    makers: dict[str, Callable[[], Backend]] = {name: partial(build, {**s, "name": name}) for name, s in hosts.items()}
    backends = {name: make() for name, make in makers.items()}
    pool = Pool([_model(name, spec, backends, makers, entry) for name, spec in members.items()])
    return pool, _spread(cluster, makers, backends) if cluster else backends


def _spread(
    cluster: DictConfig, makers: Mapping[str, Callable[[], Backend]], backends: dict[str, Backend]
) -> dict[str, Backend]:
    """The backends on a cluster, to which their settings travel, and no key."""
    for name, make in makers.items():
        told = repr(make)
        if _CREDENTIALS.search(told) or "'api_key'" in told or "api_key=" in told:
            raise ConfigError(
                f"backend {re.sub(r'//[^/@]*@', '//', name)!r}: a key or password among its settings would travel to the machines "
                "of the cluster; name the variable that holds it there with api_key_env"
            )
    return cast("dict[str, Backend]", build(cluster).spread(makers, backends))


def catalog() -> dict[str, dict[str, Any]]:
    """What ``conf/catalog.yaml`` knows of models, by name."""
    loaded = OmegaConf.to_container(_read_yaml(conf_folder() / "catalog.yaml", "catalog", "install the package again"))
    return cast("dict[str, dict[str, Any]]", loaded)


def _members(entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of each model: of those in ``use``, then of ``members``; from the catalog what they leave out."""
    given = entry.get("members") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"models: 'members' must be a mapping of names to settings, got {given!r}")
    used = entry.get("use") or []
    if not isinstance(used, list):
        raise ConfigError(f"models.use={used!r} must be a list of names of conf/catalog.yaml, such as [llama-3.1-8b]")
    known = catalog()
    if not used and not given:
        raise ConfigError(
            "the model pool is empty; name at least one model: models.use=[llama-3.1-8b], of conf/catalog.yaml, or under members"
        )
    members = {}
    for name in dict.fromkeys([*map(str, used), *map(str, given)]):
        spec = given.get(name, {})
        if not isinstance(spec, Mapping):
            raise ConfigError(
                f"model {name!r}: expected settings such as {{parameters: 3e9, base_url: …}}, got {spec!r}"
            )
        line = str(spec.get("like", name))
        if "parameters" not in spec and line not in known:
            near = ", ".join(difflib.get_close_matches(line, known) or list(known))
            raise ConfigError(
                f"model {name!r} has no 'parameters' (number of weights, such as 3.2e9), which prices need, and {line!r} is not in "
                f"conf/catalog.yaml; give it in members, or take one of {near}"
            )
        own = {key: value for key, value in spec.items() if key != "like"}
        members[name] = own if "parameters" in spec else {**known[line], **own}
    return members


def _place(name: str, spec: dict[str, Any], entry: Mapping[str, Any], hosts: Mapping[str, dict[str, Any]]) -> None:
    """Say where a model runs, unless it says so itself: at a server under its id, or in a backend that loads models."""
    if "base_url" not in spec and "backend" not in spec:
        spec.update({key: entry[key] for key in ("base_url", "backend") if key in entry})
    hub = spec.pop("hub", None)
    if spec.get("usd", {}) is None:
        del spec["usd"]
    host = hosts.get(str(spec.get("backend")))
    if host is None and "base_url" not in spec:
        raise ConfigError(f"model {name!r} has neither base_url nor a known backend ({', '.join(hosts) or 'none'})")
    host = host or {}
    if "models" in host and hub is not None:
        served = str(spec.get("served_as") or name)
        loaded = dict(host["models"] or {})
        own = loaded.get(served, {})
        loaded[served] = {"model": hub, **own} if isinstance(own, Mapping) else own
        host["models"] = loaded
    elif "base_url" in spec and hub is not None:
        spec.setdefault("served_as", hub)


def _read_yaml(path: Path, what: str, advice: str) -> DictConfig:
    try:
        loaded = OmegaConf.load(path)
        OmegaConf.to_container(loaded, resolve=True)
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}; {advice}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("yaml", "omegaconf"):
            raise
        raise ConfigError(f"{path} is not a {what}: {' '.join(str(error).split())}; {advice}") from error
    return cast("DictConfig", loaded)


def read_config(path: Path) -> DictConfig:
    """Settings that a run wrote into its folder.

    Raises
    ------
    ConfigError
        If they cannot be read.
    """
    config = _read_yaml(path, "run's settings", "start a new run")
    missing = sorted({"task", "models", "role", "optimizer", "rounds"} - set(config))
    if missing:
        raise ConfigError(f"{path} is not a run's settings: it lacks {', '.join(missing)}; start a new run")
    return config


def _models_entry(config: DictConfig) -> dict[str, Any]:
    entry = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    if "path" not in entry:
        return entry
    path = Path(str(entry["path"])).expanduser()
    loaded = OmegaConf.to_container(_read_yaml(path, "model pool", "models=<file>.yaml names it"), resolve=True)
    if not isinstance(loaded, dict) or "members" not in loaded:
        raise ConfigError(f"{path} is not a model pool: it has no 'members:'; see conf/models/file.yaml for the form")
    if "_target_" in str(loaded):
        raise ConfigError(f"{path} names code to run (_target_), which a pool file may not; give base_url or backend")
    return cast("dict[str, Any]", loaded)


def _model(
    name: str,
    spec: dict[str, Any],
    backends: dict[str, Backend],
    makers: dict[str, Callable[[], Backend]],
    entry: Mapping[str, Any],
) -> Model:
    base_url = spec.pop("base_url", None)
    server: dict[str, Any] = {key: spec.pop(key) for key in _SERVER_KEYS if key in spec}
    if base_url is not None:
        from agentgraph.backends.openai_server import OpenAIServer

        shared = {key: entry[key] for key in _SERVER_KEYS if key in entry}
        options_given = {**shared, **server}
        shown = re.sub(r"//[^/@]*@", "//", str(base_url))  # a key in the URL is nobody's business
        # Models with the same server and options share one client.
        key = f"{shown} #{stable_hash(options_given):016x}" if options_given else shown
        if key not in backends:
            makers[key] = partial(OpenAIServer, name=key, base_url=str(base_url), **options_given)
            backends[key] = makers[key]()
        spec["backend"] = key
        extra = options_given.get("extra_body")  # changes what the server answers
        spec.setdefault(
            "fingerprint", "/".join(map(str, (shown, spec.get("served_as") or name, *([extra] if extra else []))))
        )
    backend = backends[str(spec["backend"])]
    spec.setdefault("fingerprint", backend.fingerprint(str(spec.get("served_as") or name)))
    known = Model.__dataclass_fields__.keys()
    strange = sorted(set(spec) - set(known))
    if strange:
        raise ConfigError(f"model {name!r}: {', '.join(strange)} unknown; use {', '.join(known)} or base_url")
    return Model(name=name, **spec)


def build_search(config: DictConfig) -> Setup:
    """Everything a search needs, from the settings of ``agentgraph search``."""
    from agentgraph.setup import Setup  # brings torch: `agentgraph show` does not need it

    if _CREDENTIALS.search(OmegaConf.to_yaml(config)):
        raise ConfigError(
            "a URL with a password among the settings would be written into the run's folder; put it into a pool file "
            "(models=<file>.yaml), or name the variable that holds the key with api_key_env"
        )
    pool, backends = build_models(config.models, config.get("cluster"))
    if config.budget.usd is not None and "_target_" not in config.models:
        members = _members(_models_entry(config.models))
        unknown = [name for name, spec in members.items() if spec.get("usd", {}) is None]
        if unknown:
            raise ConfigError(
                f"budget.usd={config.budget.usd}: conf/catalog.yaml knows no price of {', '.join(unknown)}; say it under "
                "members, usd: {prompt_token: …, output_token: …}, or usd: {} if it costs nothing"
            )
    if "model" in config.agent:
        _agent_model(config, pool, backends)
    return Setup(
        task=build(config.task),
        pool=pool,
        backends=backends,
        roles=[build(role) for role in config.role.values()],
        optimizer=build(config.optimizer),
        objective=build(config.objective),
        race=_race(config.race),
        **{f"budget_{name}": value for name, value in config.budget.items()},
        **{key: config[key] for key in ("max_nodes", "rounds", "plans_per_round", "questions_per_round")},
        **{key: config[key] for key in ("finalists", "failure_share", "outage", "seed")},
        deadlines=build_deadlines(config.deadline),
        stages=cast("Any", OmegaConf.to_container(config.stages, resolve=True)) if config.get("stages") else None,
        hand_on=config.get("hand_on", False),
    )


def build_deadlines(given: DictConfig) -> Deadlines | None:
    """Time limits of nodes and questions; ``None`` if there are none."""
    from agentgraph.node_run import Deadlines  # late, as `Setup` above

    return None if all(value is None for value in given.values()) else Deadlines(given.node, given.question)


def _race(given: Any) -> Race | None:  # noqa: ANN401  whatever was typed
    """The race: its settings, true for its defaults, false or null for none."""
    from agentgraph.race import Race  # late, as `Setup` above

    if given is None or isinstance(given, bool):
        return Race() if given else None
    if not isinstance(given, DictConfig):
        raise ConfigError(f"race={given!r} must be true, false or null, or change race.block and race.doubt")
    return cast("Race", build(given))


def _agent_model(config: DictConfig, pool: Pool, backends: dict[str, Backend]) -> None:
    """Put the agent's model in the place of its name; ``base_url`` makes a backend of its own."""
    OmegaConf.set_struct(config, False)
    name, url = config.agent.model, config.agent.pop("base_url", None)
    key_env = config.agent.pop("api_key_env", None)
    if url is None:
        model = pool.named(name)
    else:
        from agentgraph.backends.openai_server import OpenAIServer

        shown = re.sub(r"//[^/@]*@", "//", str(url))
        backend = f"agent {shown}"
        backends[backend] = OpenAIServer(name=backend, base_url=url, api_key_env=key_env, logprobs=False)
        model = Model(name=name, parameters=1.0, backend=backend, fingerprint=f"{shown}/{name}")
    config.agent.model = {"_target_": "agentgraph.model.Model", "_partial_": False}
    for field in ("name", "parameters", "layers", "hidden_size", "backend", "served_as", "prompt_form", "fingerprint"):
        config.agent.model[field] = getattr(model, field)


def load_task(name: str, **settings: Any) -> Task:  # noqa: ANN401
    """A task by its conf name, such as ``load_task("jsonl", path="mine.jsonl")``."""
    config = load("check", [f"task={name}"]).task
    OmegaConf.set_struct(config, False)
    return cast("Task", build(OmegaConf.merge(config, settings)))


def load_role(name: str, **settings: float | int | None) -> Role:
    """A role by its conf name, such as ``load_role("fuser", temperature=0.5)``."""
    config = load("search", [f"role=[{name}]"]).role[name]
    OmegaConf.set_struct(config, False)
    return cast("Role", build(OmegaConf.merge(config, {"settings": settings} if settings else {})))


def load_models(name: str) -> tuple[Pool, dict[str, Backend]]:
    """Pool and backends by conf name or by the path of a pool file."""
    return build_models(load("check", prepared([f"models={name}"])).models)


_BROUGHT: Final = {"callable": {"models": "callable", "role": "[spend,tally]"}}  # by a task, unless others are named


def prepared(overrides: Sequence[str], command: str = "check") -> list[str]:
    """Overrides as Hydra wants them.

    A task that is no use without models or roles of its own brings them (roles where the command has any: 'search').

    ``models=path/to/pool.yaml`` becomes the entry 'file' and its path; ``replace.<model>=<model>`` adds a key, whose dots
    (``replace.qwen2.5-7b=…``) are part of the name; ``stages.<stage>.share=0.3`` adds one too.
    """
    result, replaced = [], []
    for override in overrides:
        if override.startswith("models=") and override.endswith((".yaml", ".yml")):
            result += ["models=file", f"models.path={Path(override.removeprefix('models=')).expanduser().resolve()}"]
        elif override.startswith("stages."):
            result.append(f"++{override}")
        elif override.startswith("replace.") and "=" in override:
            replaced.append(override.removeprefix("replace.").replace("=", ":", 1))
        else:
            result.append(override)
    for task in [override.removeprefix("task=") for override in overrides if override.startswith("task=")]:
        for group, option in _BROUGHT.get(task, {}).items():
            if (group == "models" or command == "search") and not any(o.startswith(f"{group}=") for o in result):
                result.insert(0, f"{group}={option}")
    if replaced:
        result.append(f"++replace={{{','.join(replaced)}}}")
    return result
