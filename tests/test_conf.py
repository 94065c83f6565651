"""Settings: every yaml composes and builds, and every member of a family has one."""

import importlib
import inspect
import json
import pkgutil
import re
import struct
from pathlib import Path

import pytest
import yaml
from fakes import record

import agentgraph.backends.embedded
from agentgraph.agents.base import Agent
from agentgraph.config import (
    build_models,
    build_search,
    catalog,
    conf_folder,
    load,
    load_models,
    load_role,
    load_task,
    options,
)
from agentgraph.errors import ConfigError, SpaceError, TaskError
from agentgraph.objectives.base import Objective
from agentgraph.optimizers.base import Optimizer
from agentgraph.roles.base import Role, role_kinds
from agentgraph.setup import Setup
from agentgraph.tasks.base import Task

WEIGHTS = Path(agentgraph.backends.embedded.__path__[0]) / "weights"
COMPLETE = (Path(agentgraph.backends.embedded.__path__[0]) / "backend.py").exists() and len(
    list(WEIGHTS.glob("*/config.json"))
) == 6
FAMILIES = {
    "agent": ("agents", Agent),
    "objective": ("objectives", Objective),
    "optimizer": ("optimizers", Optimizer),
    "role": ("roles", Role),
    "task": ("tasks", Task),
}
WRITER = ["agent=language_model", "agent.model=writer", "agent.base_url=http://127.0.0.1:9/v1"]
SERVED = "{members: {m: {parameters: 3e9, layers: 28, hidden_size: 3072, base_url: 'http://127.0.0.1:9/v1'}}}"


@pytest.fixture
def pool_file(tmp_path):
    path = tmp_path / "pool.yaml"
    path.write_text(SERVED)
    return path


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps({"question": f"{i}?", "gold": str(i)}) for i in range(100)))
    rows = [json.dumps({"problem": f"{i}?", "answer": str(i)}) for i in range(30)]
    (tmp_path / "aime.jsonl").write_text("\n".join(rows))
    rows = [json.dumps({"question": f"{i}?", "choices": list("wxyz"), "answer": i % 4}) for i in range(30)]
    (tmp_path / "mmlu.jsonl").write_text("\n".join(rows))
    record(tmp_path / "recorded")
    return path


def overrides(group, option, questions, pool_file):
    """What an option needs that has no default."""
    needed = {
        ("task", "jsonl"): [f"task.path={questions}"],
        ("task", "aime"): [f"task.path={questions.parent}/aime.jsonl"],
        ("task", "mmlu"): [f"task.path={questions.parent}/mmlu.jsonl"],
        ("task", "recorded"): [f"task.path={questions.parent}/recorded"],
        ("task", "callable"): ["task.stages={a: {options: {x: 1}, most: 2}}", "task.function=json:loads"],
        ("optimizer", "zero_shot"): WRITER,
        ("optimizer", "zero_shot_settings"): WRITER,
        ("agent", "language_model"): WRITER[1:],
    }
    chosen = f"role=[assistant,{option}]" if group == "role" else f"{group}={option}"
    base = [] if group == "models" else ["models=file", f"models.path={pool_file}"]
    return [
        *base,
        *dict.fromkeys([chosen.replace("[assistant,assistant]", "[assistant]")]),
        *needed.get((group, option), []),
    ]


# ---- every yaml


def test_groups_are_the_families():
    groups = {path.name for path in conf_folder().iterdir() if path.is_dir()}
    assert groups == {*FAMILIES, "models", "cluster"}


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in FAMILIES for o in options(g)])
def test_every_yaml_builds(group, option, questions, pool_file):
    setup = build_search(load("search", overrides(group, option, questions, pool_file)))
    assert isinstance(setup, Setup)
    built = {
        "task": setup.task,
        "optimizer": setup.optimizer,
        "objective": setup.objective,
        "agent": getattr(setup.optimizer, "agent", None),
        "role": setup.roles[-1],
    }[group]
    assert isinstance(built, FAMILIES[group][1])


@pytest.mark.parametrize("option", options("models"))
def test_every_pool_builds(option, pool_file, questions):
    if option == "embedded" and not COMPLETE:
        pytest.skip("the embedded weights are not there")
    needed = {
        "file": [f"models.path={pool_file}"],
        "recorded": ["task=recorded", f"task.path={questions.parent}/recorded"],
        "openai_server": ["models.use=[qwen2.5-7b]"],
        "callable": ["task=callable", "task.stages={a: {options: {x: 1}, most: 2}}", "task.function=json:loads"],
    }
    chosen = [f"models={option}", *needed.get(option, [])]
    pool, backends = build_models(load("check", chosen).models)
    assert pool
    assert {model.backend for model in pool} <= set(backends)


@pytest.mark.parametrize("command", ["search", "pick", "replay", "show", "check"])
def test_every_command_composes(command):
    config = load(command)
    assert "hydra" not in config


@pytest.mark.parametrize("path", sorted(conf_folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_says_what_it_is(path):
    assert path.read_text().startswith("# ")
    assert yaml.safe_load(path.read_text()) is not None


# ---- members and yamls


@pytest.mark.parametrize("group", FAMILIES)
def test_every_member_has_a_yaml_and_every_yaml_a_member(group):
    folder, base = FAMILIES[group]
    package = importlib.import_module(f"agentgraph.{folder}")
    members = set()
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"agentgraph.{folder}.{module.name}")
        for name, value in vars(loaded).items():
            own = inspect.isclass(value) and issubclass(value, base) and value.__module__ == loaded.__name__
            if own and not inspect.isabstract(value):
                members.add(f"{loaded.__name__}.{name}")
    targets = set()
    for option in options(group):
        config = yaml.safe_load((conf_folder() / group / f"{option}.yaml").read_text())
        entries = list(config.values()) if group == "role" else [config]
        targets |= {entry["_target_"] for entry in entries}
    assert targets == members


def test_every_setting_of_a_member_is_in_its_yaml():
    for group in FAMILIES:
        for option in options(group):
            config = yaml.safe_load((conf_folder() / group / f"{option}.yaml").read_text())
            config = config[option] if group == "role" else config
            module, _, name = config["_target_"].rpartition(".")
            member = getattr(importlib.import_module(module), name)
            known = set(inspect.signature(member).parameters)
            strange = set(config) - known - {"_target_"}
            assert strange <= ({"base_url", "api_key_env"} if group == "agent" else set()), (group, option)


def test_roles_are_named_like_their_yaml():
    for option in options("role"):
        assert load_role(option).name == option
    assert {load_role(option).kind for option in options("role")} == set(role_kinds())


# ---- embedded pool


@pytest.mark.skipif(not COMPLETE, reason="the embedded weights are not there")
def test_sizes_of_the_embedded_models():
    members = yaml.safe_load((conf_folder() / "models" / "embedded.yaml").read_text())["members"]
    assert set(members) == {path.parent.name for path in WEIGHTS.glob("*/config.json")}
    for name, entry in members.items():
        config = json.loads((WEIGHTS / name / "config.json").read_text())
        assert entry["layers"] == config["num_hidden_layers"]
        assert entry["hidden_size"] == config["hidden_size"]
        with (WEIGHTS / name / "model.safetensors").open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        count = 0
        for key, tensor in header.items():
            if key not in ("__metadata__", "lm_head.weight") or (
                key == "lm_head.weight" and not config.get("tie_word_embeddings")
            ):
                size = 1
                for side in tensor.get("shape", [0]):
                    size *= side
                count += size
        assert entry["parameters"] == count


# ---- by name, and what is refused


def test_by_name(questions, pool_file):
    assert load_task("recall").name == "recall"
    assert len(load_task("calc", sizes={"test": 7}).questions("test")) == 7
    assert load_task("jsonl", path=str(questions)).name == "jsonl"
    assert load_role("fuser", temperature=0.5).settings.temperature == 0.5
    pool, backends = load_models(str(pool_file))
    assert pool.names == ("m",)
    assert pool[0].size.layers == 28
    assert len(backends) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["task=chess"], "task=chess is unknown; there are 2wikimultihopqa, aime, calc, .*recall"),
        (["optimizer=adam"], "optimizer=adam is unknown; there are .*agent_reinforce, .*random_search"),
        (["models=gpt"], "models=gpt is unknown; there are callable, embedded, file"),
        (["role=[judge]"], "role=judge is unknown; there are assistant, "),
        (["rouds=3"], "the key 'rouds' is unknown; see 'agentgraph search --help'"),
        (
            ["optimizer=gp", "optimizer.settings.n_startup_trials=4"],
            r"'optimizer.settings.n_startup_trials' has no such entry yet; to add one, write \+optimizer.settings.<keyword>=",
        ),
        (["budget.unit=3"], "the key 'budget.unit' is unknown"),
        (["rounds"], "rounds"),
        (["rounds=[1"], r"input '\[1'"),
    ],
)
def test_bad_override(arguments, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        load("search", arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("members: {}", "the model pool is empty"),
        ("models: {}", "it has no 'members:'; see conf/models/file.yaml"),
        ("just text", "is not a model pool"),
        ("members: [a, b]", "'members' must be a mapping of names to settings, got"),
        ("members: {m: 3e9}", "model 'm': expected settings such as"),
        ("members: {m: {parameters: 3e9}}", r"model 'm' has neither base_url nor a known backend \(none\)"),
        ("members: {m: {base_url: 'http://127.0.0.1:9/v1'}}", "model 'm' has no 'parameters'"),
        (
            "members: {m: {parameters: 3e9, base_url: 'http://127.0.0.1:9/v1', layer: 2}}",
            "model 'm': layer unknown; use name",
        ),
        ("members: {m: {parameters: -1, base_url: 'http://127.0.0.1:9/v1'}}", "parameters=-1"),
        (
            "members: {m: {parameters: lots, base_url: 'http://127.0.0.1:9/v1'}}",
            "model 'm': parameters='lots' is not a number",
        ),
        ("members: {m: {_target_: os.system, command: ls}}", r"names code to run \(_target_\)"),
        ("members: {m: [", "is not a model pool: "),
        ("members: {m: {parameters: 1, backend: x}}\nbackends: {x: {_target_: os.getcwd}}", "names code to run"),
    ],
)
def test_bad_pool_file(tmp_path, text, expected):
    path = tmp_path / "pool.yaml"
    path.write_text(text)
    with pytest.raises((ConfigError, ValueError), match=expected) as caught:
        load_models(str(path))
    assert "\n" not in str(caught.value)


def test_no_pool_file(tmp_path):
    with pytest.raises(ConfigError, match=f"cannot read the model pool {tmp_path}/none.yaml: No such file"):
        load_models(str(tmp_path / "none.yaml"))


def test_bad_values_are_errors_of_ours(pool_file):
    chosen = ["models=file", f"models.path={pool_file}"]
    with pytest.raises(TaskError, match="task.sizes.train='x' is not a whole number"):
        build_search(load("search", [*chosen, "task.sizes.train=x"]))
    with pytest.raises(ConfigError, match=r"temperature must be in \[0, 5\], got 9"):
        build_search(load("search", [*chosen, "role.assistant.settings.temperature=9"]))
    with pytest.raises(SpaceError, match="the pool has no model 'writer'; it has m"):
        build_search(load("search", [*chosen, "agent=language_model", "agent.model=writer"]))
    with pytest.raises(ConfigError, match="agent.model"):
        build_search(load("search", [*chosen, "agent=language_model"]))
    with pytest.raises(ConfigError, match="task.path|path"):
        build_search(load("search", [*chosen, "task=jsonl"]))


def test_race_is_a_switch():
    from agentgraph.race import Race

    def race(*overrides):
        return build_search(load("search", ["task=synthetic", "models=synthetic", *overrides])).race

    assert race() == race("race=true") == Race()
    assert race("race.block=5", "race.doubt=0.2") == Race(5, 0.2)
    assert race("race=false") is race("race=null") is None
    with pytest.raises(ConfigError, match="race='maybe' must be true, false or null"):
        race("race=maybe")


# ---- models by name


def pooled(*overrides):
    return build_models(load("check", overrides).models)


def test_every_line_of_the_catalog_is_a_model():
    known = catalog()
    pool, _ = pooled("models=openai_server", f"models.use=[{','.join(known)}]")
    assert pool.names == tuple(known)
    for model in pool:
        assert model.served_as == known[model.name]["hub"]
        assert model.served_as.count("/") == 1
        assert model.layers > 1
        # Attention, and a feed-forward part of at least its size, in every layer: between 4 and 40 times hidden² each; the rest are
        # embeddings. Mixtures of experts activate a part of their layers' weights.
        inner = model.parameters / (model.layers * model.hidden_size**2)
        assert 4 < inner < 60, model.name
        assert 0 <= model.usd.prompt_token <= model.usd.output_token < 1e-5
    for family in ("llama", "qwen2.5", "qwen3", "gemma-2", "gemma-3", "phi"):
        dense = [m for m in pool if m.name.startswith(f"{family}-") and not re.search(r"-a\d+b$", m.name)]
        assert len(dense) >= 3
        for model in dense:
            said = re.search(r"-(\d+(?:\.\d+)?)b$", model.name)
            assert said is None or model.parameters == pytest.approx(float(said[1]) * 1e9, rel=0.31), model.name


def test_pool_by_names_of_the_catalog():
    pool, backends = pooled(
        "models=openai_server", "models.use=[llama-3.1-8b, qwen2.5-7b]", "models.base_url=http://127.0.0.1:9/v1"
    )
    assert pool.names == ("llama-3.1-8b", "qwen2.5-7b")
    assert len(backends) == 1  # one server, one client
    assert (pool[0].parameters, pool[0].layers, pool[0].hidden_size) == (8.03e9, 32, 4096)
    assert pool[0].served_name == "meta-llama/Llama-3.1-8B-Instruct"
    assert pool[0].usd.output_token == 5e-8


def test_member_by_a_name_of_the_catalog(tmp_path):
    path = tmp_path / "pool.yaml"
    path.write_text(
        "members:\n"
        "  llama-3.2-1b: {base_url: 'http://127.0.0.1:9/v1'}\n"
        "  mine: {like: llama-3.2-1b, base_url: 'http://127.0.0.1:9/v1', served_as: tuned, usd: {call: 1}}\n"
        "  qwen2.5-7b: {parameters: 7e9, base_url: 'http://127.0.0.1:9/v1'}\n"
    )
    pool, _ = load_models(str(path))
    assert [model.served_name for model in pool] == ["meta-llama/Llama-3.2-1B-Instruct", "tuned", "qwen2.5-7b"]
    assert [model.layers for model in pool] == [16, 16, 0]  # whoever gives a size gives all of it
    assert pool[1].usd.call == 1
    assert pool[1].usd.output_token == 0


def test_backend_that_loads_models_is_told_their_ids():
    _, backends = pooled(
        "models=vllm_server",
        "models.use=[llama-3.2-1b, llama-3.2-3b]",
        "+models.backends.vllm.models={llama-3.2-3b: {gpu_memory_utilization: 0.5}, other: org/other}",
        "+models.members.other={parameters: 1e9}",
        "models.backends.vllm.flags.max_model_len=4096",
    )
    specs = backends["vllm"]._specs
    assert {name: spec.model for name, spec in specs.items()} == {
        "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
        "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
        "other": "org/other",
    }
    assert specs["llama-3.2-3b"].arguments["gpu_memory_utilization"] == 0.5
    assert {spec.arguments["max_model_len"] for spec in specs.values()} == {4096}
    _, backends = pooled("models=vllm_local")
    assert backends["local"]._specs["qwen2.5-3b"].model == "Qwen/Qwen2.5-3B-Instruct"


def test_pool_that_mixes_backends():
    pool, backends = pooled(
        "models=vllm_server",
        "models.use=[llama-3.2-1b]",
        "+models.members={llama-3.1-70b: {base_url: 'http://127.0.0.1:9/v1'}}",
        "+models.backends.embedded={_target_: agentgraph.backends.embedded.backend.Embedded}",
        "+models.members.a-small={parameters: 28416, backend: embedded, prompt_form: embedded}",
    )
    assert [(model.name, type(backends[model.backend]).__name__) for model in pool] == [
        ("llama-3.2-1b", "VllmServer"),
        ("llama-3.1-70b", "OpenAIServer"),
        ("a-small", "Embedded"),
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["models=openai_server"], r"pool is empty; name at least one model: models.use=\[llama-3.1-8b\]"),
        (["models=openai_server", "models.use=llama-3.1-8b"], "models.use='llama-3.1-8b' must be a list of names"),
        (
            ["models=openai_server", "models.use=[llama-3-8b]"],
            "'llama-3-8b' is not in conf/catalog.yaml; give it in members, or take one of llama-3.*-8b",
        ),
        (["models=vllm_server", "models.backend=gone"], r"model 'qwen2.5-1.5b' has neither .* known backend \(vllm\)"),
        (["models=vllm_server", "models.use=[]", "+models.members.m={parameters: 1e9}"], "must name one or more"),
    ],
)
def test_bad_names(overrides, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        pooled(*overrides)
    assert "\n" not in str(caught.value)


def test_budget_in_dollars_needs_the_price_of_every_model():
    chosen = ["models=openai_server", "models.use=[qwen2.5-3b, qwen2.5-7b]"]
    with pytest.raises(ConfigError, match=r"budget.usd=0.1: conf/catalog.yaml knows no price of qwen2.5-3b; say it"):
        build_search(load("search", [*chosen, "budget.usd=0.1"]))
    free = build_search(load("search", [*chosen, "+models.members={qwen2.5-3b: {usd: {}}}", "budget.usd=0.1"]))
    assert [model.usd.output_token for model in free.pool] == [0, 1e-7]


@pytest.mark.parametrize(
    "overrides",
    [
        ["models=openai_server", "models.use=[llama-3.1-8b]", "models.base_url=http://me:sesame@127.0.0.1:9/v1"],
        ["models=synthetic", *WRITER[:2], "agent.base_url=http://me:sesame@127.0.0.1:9/v1"],
    ],
)
def test_password_among_the_settings_of_a_search(overrides):
    with pytest.raises(ConfigError, match="a URL with a password among the settings") as caught:
        build_search(load("search", overrides))
    assert "sesame" not in str(caught.value)
