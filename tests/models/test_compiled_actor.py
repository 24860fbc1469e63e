"""A compiled agent acts as the one that it stands for, through all that happens to episodes, and is compiled once."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from test_acting_contract import STEPS, TARGETS, Row, _actor, _prepared, _same, play, rows  # noqa: F401

from hf_seqrl import Agent, collect, rollout
from hf_seqrl.models import compiled_actor
from hf_seqrl.models.compiled_actor import CompiledActor
from hf_seqrl.models.registry import family_named

pytestmark = pytest.mark.filterwarnings("ignore")  # of the compiler


def compilable(row):
    own_encoder = row.options.get("backbone") in (None, "gru", "transformer")
    return family_named(row.family).step_graph is not None and own_encoder


@pytest.fixture(autouse=True)
def _nothing_is_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()


def _compiled(row, space, backend="eager", model=None):
    prepared = _prepared(row, space)
    model = model or prepared.model
    graph = family_named(row.family).step_graph
    return CompiledActor(_actor(row, space), model, prepared.processor, graph, backend)


def _lives(actor, observations, rewards):
    """The actions of four episodes, of which one ends and begins again, and two are dropped."""
    none = np.zeros(4, bool)
    actor.reset(4, target_return=TARGETS if actor.is_conditioned else None, seed=0)
    taken = [actor.act(observations[:, 0])]
    actor.observe(rewards[:, 0], none)
    with _compiling_nothing(isinstance(actor, CompiledActor)):
        for step in range(1, 6):
            taken.append(actor.act(observations[:, step]))
            actor.observe(rewards[:, step], np.array([False, step == 2, False, False]))
        executed = np.roll(actor.act(observations[:, 6]), 1, axis=0)
        actor.observe(rewards[:, 6], none, executed)
        actor.act(observations[:, 7])
        actor.select(np.array([3, 1]))  # between the choice and its outcome
        actor.observe(rewards[[3, 1], 7], none[:2])
        for step in range(8, STEPS):
            taken.append(actor.act(observations[[3, 1], step]))
            actor.observe(rewards[[3, 1], step], none[:2])
    return np.concatenate(taken)


@contextmanager
def _compiling_nothing(wanted):
    if wanted:
        torch.compiler.set_stance("fail_on_recompile")
    try:
        yield
    finally:
        torch.compiler.set_stance("default")


@rows(compilable)
def test_it_acts_as_the_actor_that_it_stands_for_and_is_compiled_once(row, space, play):  # noqa: F811
    expected = _lives(_actor(row, space), *play)
    actor = _compiled(row, space)
    assert actor.memory == _actor(row, space).memory
    for _ in range(2):  # the second life is another reset of the same actor
        _same(space, _lives(actor, *play), expected)
    assert len(np.unique(expected)) > 1


@rows(compilable, ("box",))
def test_what_was_shown_twice_is_remembered_once(row, space, play):  # noqa: F811
    once, twice = _actor(row, space), _compiled(row, space)
    for actor in (once, twice):
        actor.reset(4, target_return=TARGETS if actor.is_conditioned else None, seed=0)
    for step in range(4):
        once.act(play[0][:, step])
        twice.act(play[0][:, -1 - step])  # thought better of
        _same(space, twice.act(play[0][:, step]), once.act(play[0][:, step]))
        for actor in (once, twice):
            actor.observe(play[1][:, step], np.zeros(4, bool))


@rows(lambda row: compilable(row) and row.family == "decision-transformer", ("box",))
def test_a_model_in_training_is_read_as_it_is(row, space, play):  # noqa: F811
    model = copy.deepcopy(_prepared(row, space).model)
    actor = _compiled(row, space, model=model)
    before = _lives(actor, *play)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    stands_for = family_named(row.family).make_actor(model, _prepared(row, space).processor)
    after = _lives(actor, *play)
    _same(space, after, _lives(stands_for, *play))
    assert np.abs(after - before).max() > 1e-3


@rows(lambda row: compilable(row) and row.options.get("recipe") == "paper", ("box",))
def test_a_model_in_training_acts_without_dropout_and_stays_in_training(row, space, play):  # noqa: F811
    model = copy.deepcopy(_prepared(row, space).model).train()
    assert any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    actor = _compiled(row, space, model=model)
    _same(space, _lives(actor, *play), _lives(_actor(row, space), *play))
    assert all(module.training for module in model.modules())


@rows(lambda row: compilable(row) and row.options.get("backbone") in (None, "gru"), ("box",))
def test_the_weights_stay_where_they_are(row, space, play):  # noqa: F811
    """A recorded step reads them there, also while another actor of the same model begins an episode."""
    model = copy.deepcopy(_prepared(row, space).model)
    moved = []
    model.apply(lambda module: setattr(module, "_apply", lambda *_, **__: moved.append(module)))
    actor = _compiled(row, space, model=model)
    for one in (actor, actor.twin()):
        one.reset(4, target_return=TARGETS if one.is_conditioned else None, seed=0)
        one.act(play[0][:, 0])
    assert not moved


def test_every_number_of_episodes_is_compiled_once(monkeypatch, play):  # noqa: F811
    """Also more of them than the compiler keeps of one function by default, and for twins together."""
    compiled, compile_ = [], torch.compile

    def count(graph, inputs):
        compiled.append(inputs[0].shape)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_(module, **options | {"backend": count}))
    row = Row("cloning", {"hidden_size": 16, "conditioning": "none"})
    family = family_named(row.family)
    prepared = family.prepare(collect("random", "CartPole-v1", num_episodes=4), family.options_class(**row.options))
    actor = Agent(prepared.model, prepared.processor, compile=True).actor
    for one in (actor, actor.twin()):
        for num_envs in (*range(1, 13), 3, 12):
            one.reset(num_envs)
            one.act(np.zeros((num_envs, 4), np.float32))
    assert len(compiled) == 12


@rows(compilable, ("box",))
def test_episodes_in_progress_are_taken_over(row, space, play):  # noqa: F811
    found = []
    for actor in (_actor(row, space), _compiled(row, space)):
        history = [
            {"observations": play[0][i, :n], "actions": np.full((n, 3), 0.5, np.float32), "rewards": play[1][i, :n]}
            for i, n in enumerate([6, 0, 3, 6])
        ]
        actor.reset(4, target_return=TARGETS if actor.is_conditioned else None, seed=0, history=history)
        seen = play[0][:, 8].copy()
        seen.flags.writeable = False
        found.append(actor.act(seen))
    _same(space, *found[::-1])


@rows(lambda row: compilable(row) and row.options.get("sliding"), ("box",))
def test_twins_have_memories_of_their_own(row, space, play):  # noqa: F811
    actor = _compiled(row, space)
    expected = _lives(_actor(row, space), *play)
    actor.reset(4, target_return=TARGETS, seed=0)
    first = actor.act(play[0][:, 0])
    actor.observe(play[1][:, 0], np.zeros(4, bool))
    _same(space, _lives(actor.twin(), *play), expected)
    other = _actor(row, space)
    other.reset(4, target_return=TARGETS, seed=0)
    _same(space, first, other.act(play[0][:, 0]))
    other.observe(play[1][:, 0], np.zeros(4, bool))
    _same(space, actor.act(play[0][:, 1]), other.act(play[0][:, 1]))


def test_an_agent_acts_compiled_in_an_environment():
    env_id, options = "CartPole-v1", {"num_episodes": 5, "num_envs": 3, "max_episode_steps": 40}
    family = family_named("cloning")
    prepared = family.prepare(collect("random", env_id, num_episodes=10), family.options_class(hidden_size=16))
    compiled = Agent(prepared.model, prepared.processor, compile="eager")
    expected = rollout(Agent(prepared.model, prepared.processor), env_id, **options)
    found = rollout(compiled, env_id, **options)
    np.testing.assert_array_equal(found.returns, expected.returns)
    assert isinstance(compiled.actor, CompiledActor)


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        (Row("trajectory-transformer", {"n_embd": 16, "n_layer": 1, "n_head": 1}), {}, "has no step of fixed shapes: it plans"),
        (Row("cloning", {"hidden_size": 16}), {"deterministic": False}, "samples its actions"),
        (Row("cloning", {"hidden_size": 16}), {"compile": "gcc"}, "'gcc': expected True or a backend of torch.compile, inductor"),
        (Row("cloning", {"hidden_size": 16}), {"compile": "cudagraphs"}, "recorded as a CUDA graph: give True"),
        (Row("critic", {"hidden_size": 16}), {}, "chooses no actions"),
        (Row("decision-transformer", {"hidden_size": 16, "n_layer": 1}), {"dtype": "bfloat16"}, "leave out dtype, or compile"),
        (Row("decision-transformer", {"hidden_size": 16, "n_layer": 1, "backbone": "llama"}), {}, "the backbone is a 'llama'"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused(row, options, sentence, cartpole_dataset):
    family = family_named(row.family)
    prepared = family.prepare(cartpole_dataset.select(range(8)), family.options_class(**row.options))
    with pytest.raises(ValueError, match=sentence):
        Agent(prepared.model, prepared.processor, **{"compile": True} | options)


def test_weights_in_half_precision_are_refused(cartpole_dataset):
    family = family_named("cloning")
    prepared = family.prepare(cartpole_dataset.select(range(8)), family.options_class(hidden_size=16))
    with pytest.raises(ValueError, match=r"the weights are in torch.bfloat16.*load the model with dtype=\"float32\""):
        Agent(prepared.model.to(torch.bfloat16), prepared.processor, compile=True)


def test_without_a_compiler_there_is_a_remedy(cartpole_dataset):
    family = family_named("cloning")
    prepared = family.prepare(cartpole_dataset.select(range(8)), family.options_class(hidden_size=16))
    agent = Agent(prepared.model, prepared.processor, compile="eager")
    agent.reset(1)

    def missing(*inputs):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    agent.actor._batch._run = missing
    with pytest.raises(
        RuntimeError, match=r"compile needs a C.. compiler on a CPU.*install one, or leave compile out"
    ):
        agent.act(np.zeros((1, 4), np.float32))


class Recorder:
    """Stands for `torch.cuda` where there is no GPU: what runs while it records is run again, over the same tensors, at `replay`,
    and nothing else is."""

    def __init__(self, monkeypatch):
        self.recording, self.recorded, self.replays = False, [], 0
        nothing = contextmanager(lambda *_: (yield))
        stream = type("Stream", (), {"wait_stream": lambda *_: None})
        monkeypatch.setattr(torch.cuda, "Stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", stream)
        monkeypatch.setattr(torch.cuda, "stream", nothing)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "device", nothing)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(compiled_actor, "_records", lambda device: True)

    @contextmanager
    def graph(self, _, capture_error_mode):
        self.recording = True
        yield
        self.recording = False

    def watch(self, run):
        def watched(*inputs):
            outputs = run(*inputs)
            if self.recording:
                self.recorded.append((run, inputs, outputs))
            return outputs

        return watched

    def replay(self):
        self.replays += 1
        run, inputs, outputs = self.recorded[-1]
        for old, new in zip(outputs, run(*inputs), strict=True):
            old.copy_(new)


@rows(compilable)
def test_a_step_is_recorded_once_and_replayed_over_the_same_tensors(row, space, play, monkeypatch):  # noqa: F811
    expected = _lives(_actor(row, space), *play)
    recorder = Recorder(monkeypatch)
    actor = _compiled(row, space)
    actor.reset(4, TARGETS if actor.is_conditioned else None)
    actor._batch._run = recorder.watch(actor._batch._run)
    _same(space, _lives(actor, *play), expected)
    _same(space, _lives(actor, *play), expected)
    assert len(recorder.recorded) == 1 and recorder.replays == 2 * STEPS


@pytest.mark.slow
@rows(lambda row: compilable(row) and row.options.get("backbone") != "transformer", ("box",))
def test_code_that_inductor_writes(row, space, play):  # noqa: F811
    _same(space, _lives(_compiled(row, space, "inductor"), *play), _lives(_actor(row, space), *play))
