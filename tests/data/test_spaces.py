import json

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_seqrl.data.spaces import (
    action_size,
    decode_actions,
    encode_actions,
    group_sizes,
    space_from_dict,
    space_to_dict,
)

SPACES = [
    Box(-1.0, 1.0, (3,)),
    Box(-np.inf, np.inf, (11,), np.float64),
    Box(np.array([-np.inf, -0.1], np.float32), np.array([0.3, np.inf], np.float32)),
    Box(0, 255, (4, 5, 3), np.uint8),
    Box(np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(1, 7, dtype=np.float32).reshape(2, 3)),
    Discrete(4),
    Discrete(3, start=-1),
    MultiDiscrete([2, 3, 4]),
    MultiDiscrete([2, 3], start=[5, -1]),
    MultiDiscrete([[2, 3], [4, 5]]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_survives_strict_json(space):
    text = json.dumps(space_to_dict(space), allow_nan=False)
    assert space_from_dict(json.loads(text)) == space


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "MountainCar-v0", "Acrobot-v1"])
def test_spaces_of_real_environments_survive(env_id):
    env = gymnasium.make(env_id)
    for space in (env.observation_space, env.action_space):
        assert space_from_dict(json.loads(json.dumps(space_to_dict(space)))) == space


def test_a_space_and_a_dictionary_pass_through():
    space = Discrete(2)
    assert space_from_dict(space) is space
    assert space_to_dict(space_to_dict(space)) == space_to_dict(space)


def test_an_unknown_space_is_refused_by_name():
    with pytest.raises(
        TypeError, match=r"Text.*expected Box, Discrete, MultiDiscrete, MultiBinary, or a Tuple or Dict"
    ):
        space_to_dict(Text(3))
    with pytest.raises(ValueError, match="type 'Graph'"):
        space_from_dict({"type": "Graph"})


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("leading", [(), (7,), (2, 3)], ids=str)
def test_decoding_undoes_encoding_of_sampled_actions(space, leading):
    space.seed(0)
    samples = [space.sample() for _ in range(int(np.prod(leading)))]
    actions = np.stack(samples).reshape(leading + space.shape)
    encoded = encode_actions(space, actions)
    assert encoded.dtype == np.float32 and encoded.shape == (*leading, action_size(space))
    decoded = decode_actions(space, encoded)
    assert decoded.shape == actions.shape
    np.testing.assert_allclose(decoded, actions, rtol=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
@settings(max_examples=30, deadline=None)
def test_each_component_has_one_hot_entry(nvec, data):
    space = MultiDiscrete(nvec)
    actions = data.draw(hnp.arrays(np.int64, (3, len(nvec)), elements=st.integers(0, 4))) % nvec
    groups = np.split(encode_actions(space, actions), np.cumsum(group_sizes(space))[:-1], axis=-1)
    for component, group in enumerate(groups):
        assert (group.sum(axis=-1) == 1).all()
        np.testing.assert_array_equal(group.argmax(axis=-1), actions[:, component])


@pytest.mark.parametrize(
    "space, action", [(Discrete(3), 3), (Discrete(3, start=1), 0), (MultiDiscrete([2, 2]), [0, -1])]
)
def test_an_action_outside_the_space_is_named(space, action):
    with pytest.raises(ValueError, match=f"action {np.ravel(action)[-1]} is outside"):
        encode_actions(space, np.asarray(action))


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"shape \(5, 4\)"):
        encode_actions(Box(-1, 1, (3,)), np.zeros((5, 4)))


def test_box_actions_are_clipped_to_the_bounds_in_the_dtype_of_the_space():
    space = Box(-0.4, 0.4, (2,), np.float64)
    action = decode_actions(space, np.array([-3.0, 0.1], np.float32))
    assert action.dtype == np.float64 and space.contains(action)
    np.testing.assert_allclose(action, [-0.4, 0.1], rtol=1e-6)


def test_an_integer_box_is_rounded():
    assert decode_actions(Box(0, 9, (2,), np.int64), np.array([3.6, 12.0])).tolist() == [4, 9]
