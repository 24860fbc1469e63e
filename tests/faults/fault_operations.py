"""What the campaign strikes: everything of the package that writes into folders or to the Hub."""

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import REQUEST, TEMPORARY, Operation


def all_operations() -> dict[str, Callable[[], Operation]]:
    """By name; each is made when it is its turn."""
    hub = _loopback_hub()
    import torch

    from hf_seqrl import collect

    torch.set_num_threads(1)
    dataset = collect("random", "CartPole-v1", num_episodes=6, seed=0)
    agents = agents_of(dataset)
    return {
        "save": lambda: save_operation(agents),
        "convert": lambda: convert_operation(agents),
        "collect": collect_operation,
        "results": lambda: results_operation(agents, dataset),
        "push": lambda: push_operation(agents, hub),
        "export": lambda: export_operation(agents),
        "train": lambda: train_operation(dataset),
        "finetune": lambda: finetune_operation(agents[0], dataset),
        "compare": lambda: compare_operation(dataset),
        "quickstart": quickstart_operation,
    }


def agents_of(dataset: Any) -> tuple[Any, Any]:
    """Two untrained agents with different weights."""
    import torch

    from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT
    from hf_seqrl.hub.run_record import RunRecord

    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=2)
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = TrainableDT(processor.model_config(hidden_size=8, n_layer=1, n_head=1))
        made.append(Agent(model, processor))
        made[-1].run = RunRecord("decision-transformer", seed=seed)
    return made[0], made[1]


def save_operation(agents: tuple[Any, Any]) -> Operation:
    """An agent is saved over another one, beside a file of the user's."""
    names = _by_weights(agents)

    def prepare(folder: Path) -> None:
        agents[0].save_pretrained(folder / "agent")
        (folder / "agent" / "notes.txt").write_text("mine")

    def state(folder: Path) -> str:
        found = _agent_at(folder / "agent", names)
        return found if (folder / "agent" / "notes.txt").read_text() == "mine" else "the user's file is gone"

    return Operation(prepare, lambda folder: agents[1].save_pretrained(folder / "agent"), state, ("old", "new"))


def convert_operation(agents: tuple[Any, Any]) -> Operation:
    """A checkpoint becomes an agent in a folder that is not there yet."""
    from hf_seqrl import Agent

    def run(folder: Path) -> None:
        Agent.from_pretrained(folder / "source").save_pretrained(folder / "agent")

    return Operation(
        lambda folder: agents[1].save_pretrained(folder / "source"),
        run,
        lambda folder: _agent_at(folder / "agent", _by_weights(agents)),
        ("none", "new"),
    )


def collect_operation() -> Operation:
    """Data are collected in the place of others."""
    from hf_seqrl import collect, load_trajectories, save_trajectories

    datasets = {seed: collect("random", "CartPole-v1", num_episodes=2, seed=seed) for seed in (0, 1)}
    names = {str(dataset["rewards"][:]): name for dataset, name in zip(datasets.values(), ("old", "new"))}

    def state(folder: Path) -> str:
        try:
            return names[str(load_trajectories(str(folder / "data"))["rewards"][:])]
        except (ValueError, OSError, KeyError) as error:
            return f"{type(error).__name__}: {error}"

    return Operation(
        lambda folder: save_trajectories(datasets[0], folder / "data"),
        lambda folder: save_trajectories(datasets[1], folder / "data", overwrite=True),
        state,
        ("old", "new"),
    )


def results_operation(agents: tuple[Any, Any], dataset: Any) -> Operation:
    """The files of evaluations, in an environment and by recorded episodes, and of a live stream take the place of others."""
    from hf_seqrl import Controller, judge_offline, rollout
    from hf_seqrl.evaluation.results import RolloutResult

    results = [rollout(agents[0], "CartPole-v1", num_episodes=2, target_return=30, seed=seed) for seed in (0, 1)]
    judgement = judge_offline(agents[0], dataset, num_steps=20)
    judgements = [replace(judgement, uninformed_loss=loss) for loss in (0.0, 1.0)]

    def write(folder: Path, which: int) -> None:
        results[which].save(folder / "results.json")
        results[which].plot(folder / "plot.png")
        judgements[which].save(folder / "judgement.json")
        controller = Controller(agents[0])
        controller.begin(target_return=30.0 + which)
        controller.step([0.0, 0.0, 0.0, 0.0])
        controller.save(folder / "stream.safetensors")

    def state(folder: Path) -> str:
        try:
            seed = RolloutResult.load(folder / "results.json").seeds[0]
            judged = json.loads((folder / "judgement.json").read_text())["uninformed_loss"]
            controller = Controller(agents[0])
            controller.load(folder / "stream.safetensors")
            target = controller.target_return
        except (ValueError, OSError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        if not (folder / "plot.png").read_bytes().endswith(b"IEND\xaeB`\x82"):
            return "the plot is cut off"
        found = {(1, 1.0, 31.0): "new", (0, 0.0, 30.0): "old"}
        return found.get((seed, judged, target), "both, each file whole")

    return Operation(
        lambda folder: write(folder, 0),
        lambda folder: write(folder, 1),
        state,
        ("old", "new", "both, each file whole"),
    )


def push_operation(agents: tuple[Any, Any], hub: Any) -> Operation:
    """An agent is pushed over another one; the Hub is a double in this process, which the strikes do not touch."""
    import httpx

    send, names = httpx.Client.send, _by_weights(agents)
    place: list[Path] = []
    before: dict[Any, Any] = {}

    def announced(*arguments: Any, **options: Any) -> Any:
        sys.audit(REQUEST, str(place[-1]))
        answer = send(*arguments, **options)
        sys.audit(REQUEST, str(place[-1]))
        return answer

    def push(folder: Path, agent: Any) -> None:
        place.append(folder.resolve())
        with patch.object(tempfile, "tempdir", str(folder / TEMPORARY)), patch.object(httpx.Client, "send", announced):
            agent.push_to_hub("tester/agent")

    def prepare(folder: Path) -> None:
        hub.reset()
        (folder / TEMPORARY).mkdir()
        push(folder, agents[0])
        before.update(deepcopy(hub.repositories))

    def restore() -> None:
        hub.reset()
        hub.repositories.update(deepcopy(before))

    def state(folder: Path) -> str:
        files = hub.repositories["model", "tester/agent"].at("main").files
        with tempfile.TemporaryDirectory() as fresh:
            for name, blob in files.items():
                Path(fresh, name).parent.mkdir(parents=True, exist_ok=True)
                Path(fresh, name).write_bytes(blob.data)
            return _agent_at(Path(fresh), names)

    return Operation(prepare, lambda folder: push(folder, agents[1]), state, ("old", "new"), restore)


def export_operation(agents: tuple[Any, Any]) -> Operation:
    """An exported agent takes the place of another one."""
    from hf_seqrl.deploy.runner import Runner

    digests: dict[str, str] = {}

    def run(folder: Path, which: int = 1) -> None:
        agents[which].export(folder / "exported", overwrite=True, num_episodes=1)

    def prepare(folder: Path) -> None:
        for name, which in (("new", 1), ("old", 0)):
            run(folder, which)
            digests[Runner(folder / "exported").description["digest"]] = name

    def state(folder: Path) -> str:
        try:
            runner = Runner(folder / "exported")
            runner.begin(target_return=30.0)
            runner.step([0.0, 0.0, 0.0, 0.0])
            return digests[runner.description["digest"]]
        except Exception as error:  # onnxruntime has errors of its own
            return f"{type(error).__name__}: {error}"

    return Operation(prepare, run, state, ("old", "new"), kills=3, failures=10)


def train_operation(dataset: Any) -> Operation:
    """A run with checkpoints; what is resumed must end in the weights of a run that was left alone."""
    from transformers import TrainingArguments

    from hf_seqrl import family_of
    from hf_seqrl.training.run import Judgement, train_agent

    family = family_of("decision_transformer")

    def run(folder: Path) -> None:
        arguments = TrainingArguments(
            output_dir=str(folder / "run"), max_steps=4, save_steps=2, save_total_limit=1, use_cpu=True,
            per_device_train_batch_size=4, report_to="none", disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        options = family.options_class(context_length=2, hidden_size=8, n_layer=1)
        with _quiet(), _may_be_finished():
            train_agent(family, dataset, options, arguments, judgement=Judgement(num_episodes=0), resume=True)

    return _with_expected_agent(run, "run", failures=3)


def finetune_operation(agent: Any, dataset: Any) -> Operation:
    """Two rounds of online fine-tuning, resumed, end in the weights of a run that was left alone."""
    from hf_seqrl import Agent, OnlineOptions, finetune_online
    from hf_seqrl.training.run import Judgement

    options = OnlineOptions(rounds=2, episodes_per_round=2, updates_per_round=2, batch_size=4, num_envs=2)

    def run(folder: Path) -> None:
        tuned = Agent(deepcopy(agent.model), deepcopy(agent.processor))
        with _quiet(), _may_be_finished():
            judgement = Judgement(num_episodes=0)
            finetune_online(
                tuned, folder / "tuned", dataset, options=options, judgement=judgement, resume=True, use_cpu=True
            )

    return _with_expected_agent(run, "tuned", failures=5)


def compare_operation(dataset: Any) -> Operation:
    """A comparison of two methods goes on where it was stopped, and recommends the same agent."""
    from hf_seqrl import compare

    def run(folder: Path) -> None:
        methods = ["cloning", "cloning, best 10 %"]
        with _quiet():
            compare(dataset, folder / "compared", methods=methods, num_seeds=1, max_steps=2, num_episodes=2)

    return _with_expected_agent(run, "compared/agent", kills=3, failures=20)


def quickstart_operation() -> Operation:
    """The quickstart, with little data and few updates, goes on where it was stopped."""
    from hf_seqrl import Agent
    from hf_seqrl.cli import quickstart

    def loads_the_same(agent: Any, folder: Path) -> bool:  # here, as a new process takes seconds to start
        return quickstart.replay_fingerprint(Agent.from_pretrained(folder)) == quickstart.replay_fingerprint(agent)

    def run(folder: Path) -> None:
        arguments = ["--output_dir", str(folder / "quick"), "--num_steps", "300", "--max_steps", "2"]
        with _quiet(), patch.object(quickstart, "_acts_the_same", loads_the_same):
            if quickstart.main(arguments) != 0:
                raise RuntimeError("the saved agent acts differently")

    def state(folder: Path) -> str:
        place = folder / "quick" / "agent"
        found = _agent_at(place, None)
        if found != "new":
            return found
        return "not evaluated" if Agent.from_pretrained(place).evaluation is None else "new"

    return Operation(lambda folder: None, run, state, ("none", "not evaluated", "new"), failures=8)


def _with_expected_agent(run: Callable[[Path], Any], name: str, **strides: int) -> Operation:
    """An operation whose agent, in the folder of that name, must have the weights that it has without any fault."""
    expected: dict[int, str] = {}

    def prepare(folder: Path) -> None:
        from hf_seqrl import Agent

        with tempfile.TemporaryDirectory() as apart:
            run(Path(apart))
            expected.update(_by_weights([Agent.from_pretrained(Path(apart, name))], ["new"]))

    return Operation(prepare, run, lambda folder: _agent_at(folder / name, expected), ("none", "new"), **strides)


def _by_weights(agents: Any, names: Any = ("old", "new")) -> dict[int, str]:
    from hf_seqrl.hub.checkpoint import weights_checksum

    return {weights_checksum(agent.model): name for agent, name in zip(agents, names)}


def _agent_at(folder: Path, names: dict[int, str] | None) -> str:
    """The name of the agent that loads from a folder, `"none"` where there is none, or what is wrong; any is `"new"` without names."""
    from hf_seqrl import Agent
    from hf_seqrl.hub.checkpoint import weights_checksum

    if not (folder / "config.json").exists() and not (folder / ".hf_seqrl-update").exists():
        return "none"
    try:
        agent = Agent.from_pretrained(folder)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "new" if names is None else names.get(weights_checksum(agent.model), "other weights")


@contextmanager
def _may_be_finished() -> Iterator[None]:
    """A context in which a command may say that its agent is there already."""
    try:
        yield
    except FileExistsError as error:
        if "holds a finished agent" not in str(error):
            raise


@contextmanager
def _quiet() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def _loopback_hub() -> Any:
    """The Hub that is pushed to; it must be there before the client of the Hub is imported."""
    sys.path.append(str(Path(__file__).parents[1] / "hub" / "over_http"))
    from loopback_hub import Hub

    hub = Hub().__enter__()
    home = tempfile.mkdtemp(prefix="hf-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": home,
        "HF_TOKEN": hub.token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return hub
