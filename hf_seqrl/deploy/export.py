"""An agent as a folder that runs without torch and transformers: a graph, what it means, a runner, and a card."""

import copy
import json
import logging
import platform
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, MultiBinary

from hf_seqrl.data.durable import whole_folder, write_whole
from hf_seqrl.data.environment_ids import spaces_of_environment
from hf_seqrl.data.spaces import choice_bounds, space_to_dict, step_shape
from hf_seqrl.data.task import Task
from hf_seqrl.deploy import runner
from hf_seqrl.deploy.browser import check_browser, write_page
from hf_seqrl.deploy.parity import measure, measure_values
from hf_seqrl.hub.agent import Agent
from hf_seqrl.hub.markdown import render
from hf_seqrl.installation import install_command
from hf_seqrl.models.step_graph import MEMORY, Standardized, StepGraph, observation_shape

OPSET = 20  # of the graphs; onnxruntime 1.17 and onnxruntime-web 1.17 are the first that run it
DESCRIPTION, GRAPH, QUANTIZED, PROGRAM = "agent.json", "step.onnx", "step.int8.onnx", "step.pt2"
_FORMAT = 1
_RETURN_EPISODES = 20  # by which the cost of quantization is judged


def export_agent(
    agent: Agent,
    folder: str | Path,
    *,
    quantize: bool = False,
    program: bool = False,
    browser: bool = False,
    browser_runtime: str | Path | None = None,
    env_id: str | None = None,
    num_episodes: int = 3,
    overwrite: bool = False,
) -> Path:
    """Write an agent as ONNX with a runner that needs NumPy and onnxruntime alone.

    The graph computes one step. Observations go in and actions come out raw: normalization, scaling and bounds are part of it.
    What the agent remembers of an episode is an input and an output. Weights are written in float32, and adapters as they
    compute. The exported agent is compared with the original over whole episodes before the folder appears.

    Args:
        agent: Any agent but a planner.
        folder: Where to write it: `step.onnx`, `agent.json`, `runner.py`, and `README.md` with what was measured.
        quantize: Also write `step.int8.onnx`, whose matrix products are int8 (onnxruntime's dynamic quantization), which the runner
            then uses; the card says what it costs.
        program: Also write `step.pt2`, the program of `torch.export`.
        browser: Also write a page, `index.html`, where the agent plays without Python: the folder is then a static Space. For
            CartPole-v1.
        browser_runtime: The folder `dist/` of the npm package onnxruntime-web, to be served beside the page; by default the page
            loads it from jsDelivr, at a fixed version.
        env_id: Where the episodes are played; defaults to the agent's environment, where it can be made here. Without one,
            observations are drawn around the statistics of the data.
        num_episodes: For the comparison with the original agent.
        overwrite: Whether to replace the folder.

    Raises:
        ImportError: the extra `onnx` is not installed.
        ValueError: the agent is a planner, samples its actions, or chooses among candidates by a critic.
        FileExistsError: the folder exists, or what is to be replaced is no exported agent.
    """
    if browser:
        check_browser(agent.env_id, agent.family.make_actor is not None, browser_runtime)
    graph = step_graph_of(agent)
    with _quiet():
        exported = torch.export.export(graph.module, tuple(graph.inputs.values()), strict=False)
    with whole_folder(folder, overwrite, DESCRIPTION) as aside:
        if program:
            torch.export.save(exported, aside / PROGRAM)
        _write_onnx(exported, graph, aside / GRAPH)
        if quantize:
            _write_quantized(aside / GRAPH, aside / QUANTIZED)
        shutil.copyfile(runner.__file__, aside / "runner.py")
        description = _description(agent, graph, QUANTIZED if quantize else GRAPH)
        description["digest"] = sha256((aside / GRAPH).read_bytes()).hexdigest()
        _write_json(aside / DESCRIPTION, description)
        env_id = env_id or (agent.env_id if spaces_of_environment(agent.env_id) is not None else None)
        description["measured"] = _measured(agent, graph, aside, env_id, num_episodes, quantize)
        _write_json(aside / DESCRIPTION, description)
        if browser:
            write_page(aside, browser_runtime)
        sizes = {path.name: path.stat().st_size for path in sorted(aside.iterdir()) if path.is_file()}
        card = render(
            "exported_card.md.jinja", about=description, files=sizes, name=Path(folder).name, is_space=browser
        )
        write_whole(aside / "README.md", card)
    return Path(folder)


def step_graph_of(agent: Agent) -> StepGraph:
    """The agent's step as a module of tensors, with a copy of its weights in float32 on the CPU.

    Raises:
        ValueError: the agent is a planner, samples its actions, or chooses among candidates by a critic.
    """
    family = agent.family
    if family.step_graph is None:
        raise ValueError(
            f"a {family.name} cannot be exported: it plans, and the search at each step is no fixed graph. Run it with "
            "`hf-seqrl act` or a Controller, or train a decision-transformer on the same data."
        )
    if any(value is not None for value in agent.candidates.values()):
        raise ValueError("the agent chooses among candidates by its critic: export one without candidates.")
    if family.make_actor is not None and not agent.actor.deterministic:
        raise ValueError("the agent samples its actions, and an exported one takes the likeliest: load it to act so.")
    model = copy.deepcopy(agent.model).to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)
    graph = family.step_graph(model, agent.processor)
    graph.module.eval()
    return graph


def _write_onnx(exported: torch.export.ExportedProgram, graph: StepGraph, path: Path) -> None:
    names = {"input_names": list(graph.inputs), "output_names": list(graph.outputs)}
    try:
        import onnxscript  # noqa: F401 - torch asks for it in the middle of the work
    except ImportError as error:
        raise ImportError(f"the export needs onnx and onnxscript ({error}): {install_command('onnx')}") from error
    with _quiet():
        onnx_program = torch.onnx.export(exported, dynamo=True, opset_version=OPSET, verbose=False, **names)
    for node in onnx_program.model.graph:
        node.metadata_props.clear()  # where it comes from in the source, with paths of this machine
    onnx_program.save(path, external_data=False)


def _write_quantized(graph: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(graph, path, weight_type=QuantType.QInt8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on packages that it does not find and on its own deprecations."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _measured(
    agent: Agent, graph: StepGraph, folder: Path, env_id: str | None, num_episodes: int, quantize: bool
) -> dict[str, Any]:
    """By the name of a graph, what was measured of it."""
    make_actor = agent.family.make_actor
    statistics = next(
        (
            (part.mean.numpy(), part.std.numpy())
            for part in graph.module.modules()
            if isinstance(part, Standardized) and part.mean is not None
        ),
        None,
    )

    measured = {}
    episodes = max(num_episodes, _RETURN_EPISODES) if quantize else num_episodes
    for name in (GRAPH, QUANTIZED) if quantize else (GRAPH,):
        if make_actor is None:
            found = measure_values(agent.values, folder, name, statistics=statistics)
        else:
            actor = make_actor(agent.model, agent.processor, **agent.acting_options)  # leaves the agent's own alone
            found = measure(actor, folder, name, env_id=env_id, num_episodes=episodes, statistics=statistics)
        measured[name] = found.to_dict()
    return measured


def _description(agent: Agent, graph: StepGraph, graph_name: str) -> dict[str, Any]:
    """What the runner must know beside the graph."""
    task, processor = agent.processor.task, agent.processor
    acts = agent.family.make_actor is not None
    conditioned = acts and agent.is_conditioned
    return {
        "format": _FORMAT,
        "kind": "acting" if acts else "values",
        "family": agent.family.name,
        "graph": graph_name,
        "memory": graph.memory,
        "memory_shapes": {name: list(one.shape) for name, one in graph.inputs.items() if name.startswith(MEMORY)},
        "conditioned": conditioned,
        "target_returns": agent.target_returns,
        "high_return": agent.actor.high_return if conditioned and agent.actor.return_estimator is None else None,
        "discount": processor.discount,
        "missing_values": agent.actor.missing_values if acts else "error",
        "observation": _described_observation(task),
        "action": _described_action(task),
        "task": task.to_dict(),
        "parameters": agent.model.num_parameters(),
        "opset": OPSET,
        "versions": {name: version(name) for name in ("hf-seqrl", "torch", "onnx", "onnxscript", "onnxruntime")},
        "machine": f"{platform.machine()}, {platform.system()}",
    }


def _described_observation(task: Task) -> dict[str, Any]:
    space, source = task.observations, task.source_observation_space
    if not isinstance(space, Box):  # numbers of states, which the graph reads as vectors
        source = space_to_dict(space)
        if isinstance(space, MultiBinary):
            source = {"type": "MultiDiscrete", "nvec": [2] * int(np.prod(space.shape))}
    return {
        "shape": list(observation_shape(space)),
        "source": source,
        "names": None if task.observation_names is None else list(task.observation_names),
        "categories": task.categories or {},
        "units": task.units or {},
    }


def _described_action(task: Task) -> dict[str, Any]:
    space = task.actions
    low, high = choice_bounds(space)
    dtype = space.dtype if space.dtype is not None else np.dtype(np.float64)
    return {
        "shape": list(step_shape(space)),
        "dtype": str(dtype),
        "lowest": [int(bound) if np.isfinite(bound) else None for bound in low],
        "highest": [int(bound) if np.isfinite(bound) else None for bound in high],
        "names": None if task.action_names is None else list(task.action_names),
        "categories": task.categories or {},
        "units": task.units or {},
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
