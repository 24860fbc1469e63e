import pytest

from hf_seqrl.data.environment_ids import (
    check_environment,
    d4rl_reference_returns,
    spaces_of_environment,
    time_limit,
    trusted_env_id,
)


def test_a_module_in_an_environment_id_is_not_imported():
    assert time_limit("no_such_module_here:Env-v0") is None
    assert spaces_of_environment("no_such_module_here:Env-v0") is None
    with pytest.raises(ValueError, match=r"this agent names the environment .*trust_remote_code=True"):
        trusted_env_id("no_such_module_here:Env-v0", "this agent")
    assert trusted_env_id("pytest:Env-v0", "this agent") == "pytest:Env-v0"  # imported already: no new code runs


def test_an_environment_that_cannot_be_made_says_what_to_do():
    check_environment("CartPole-v1")
    with pytest.raises(ValueError, match=r"'CartPol-v1' cannot be made here .* Did you mean 'CartPole-v1'"):
        check_environment("CartPol-v1")
    with pytest.raises(ValueError, match="name its module"):
        check_environment("Nowhere_near_anything_at_all-v0")
    with pytest.raises(ValueError, match="cannot be made here"):
        check_environment("no_such_module:Env-v0")


@pytest.mark.parametrize("error", [ImportError, AttributeError])
def test_a_simulator_that_fails_leaves_the_spaces_open(monkeypatch, error):
    def fail(*arguments, **options):
        raise error("no simulator")

    monkeypatch.setattr("gymnasium.make", fail)
    assert spaces_of_environment("CartPole-v1") is None
    with pytest.raises(ValueError, match="cannot be made here"):
        check_environment("CartPole-v1")


@pytest.mark.parametrize("env_id", ["Walker2d-v2", "Walker2d-v5", "walker2d-medium-v2"])
def test_d4rl_references_do_not_depend_on_the_version(env_id):
    assert d4rl_reference_returns(env_id) == pytest.approx((1.63, 4592.3), abs=0.01)
