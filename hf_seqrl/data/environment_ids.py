"""What is known of an environment by its id: whether to trust it, whether it can be made here, its spaces, limit and scores."""

import sys
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import metadata, packages_distributions

import gymnasium
from gymnasium.spaces import Space

# what `gymnasium.make` raises where the simulator is not installed, or is of another version than it expects
_CANNOT_BE_MADE = (gymnasium.error.Error, ImportError, AttributeError, TypeError)

# (return of a random policy, return of an expert) from `d4rl/infos.py` of Farama-Foundation/D4RL, by task name
_D4RL_REFERENCE_RETURNS = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
}


def trusted_env_id(env_id: str | None, whose: str, trust_remote_code: bool = False) -> str | None:
    """An environment id out of a file, unless it would have gymnasium import a module: `module:Environment-v0` is code.

    Args:
        env_id: As it stands in the file.
        whose: Of what file, for the message.
        trust_remote_code: Whether the user trusts it. A module that the program has imported already runs no new code.

    Raises:
        ValueError: it names a module that nobody has imported, and is not trusted.
    """
    module, colon, _ = (env_id or "").rpartition(":")
    if colon and module not in sys.modules:
        if not trust_remote_code:
            raise ValueError(
                f"{whose} names the environment {env_id!r}, which has gymnasium import {module!r}: if you trust its author, "
                "pass trust_remote_code=True (--trust_remote_code), or import that module first."
            )
        import_module(module)
    return env_id


def time_limit(env_id: str | None) -> int | None:
    """The number of steps after which gymnasium truncates an episode of this environment; `None` where it is not known."""
    spec = gymnasium.registry.get(env_id) if env_id else None
    return None if spec is None else spec.max_episode_steps


def d4rl_reference_returns(env_id: str | None) -> tuple[float, float] | None:
    """D4RL's (random, expert) returns of an environment, whatever its version; `None` for one that D4RL has not scored.

    Example:
        >>> d4rl_reference_returns("Hopper-v5"), d4rl_reference_returns("CartPole-v1")
        ((-20.272305, 3234.3), None)
    """
    task = (env_id or "").rpartition("/")[2].split("-")[0].lower()
    return _D4RL_REFERENCE_RETURNS.get(task)


def spaces_of_environment(env_id: str | None) -> dict[str, Space] | None:
    """The spaces of an environment that can be made here, else `None`."""
    if env_id is None or env_id not in gymnasium.registry:  # an unregistered id would have gymnasium import a module
        return None
    try:
        return _spaces(env_id)
    except _CANNOT_BE_MADE:
        return None


def check_environment(env_id: str) -> None:
    """Find out whether an environment can be made here, before hours of work end in it.

    Raises:
        ValueError: it cannot; the message says what to install, or which registered id is similar.
    """
    try:
        _spaces(env_id)
    except _CANNOT_BE_MADE as error:
        raise ValueError(f"the environment {env_id!r} cannot be made here ({error}). {_remedy(env_id)}") from error


def _spaces(env_id: str) -> dict[str, Space]:
    environment = gymnasium.make(env_id)
    spaces = {"observation_space": environment.observation_space, "action_space": environment.action_space}
    environment.close()
    return spaces


def requirement(env_id: str) -> str | None:
    """What pip installs for an environment; `None` where this package brings it, or nothing is known of it.

    Example:
        >>> requirement("CartPole-v1"), requirement("Hopper-v5"), requirement("Nowhere-v0")
        (None, 'gymnasium[mujoco]', None)
    """
    spec = gymnasium.registry.get(env_id)
    if spec is None:
        return None
    module = spec.entry_point.partition(":")[0] if isinstance(spec.entry_point, str) else spec.entry_point.__module__
    package, *inner = module.split(".")
    if package == "hf_seqrl":
        return None
    if package != "gymnasium":
        return packages_distributions().get(package, [package])[0]
    extra = inner[1].replace("_", "-")
    if extra == "classic-control":  # part of every installation
        return None
    return f"gymnasium[{extra}]" if extra in metadata("gymnasium").get_all("Provides-Extra", []) else "gymnasium"


def _remedy(env_id: str) -> str:
    needed = requirement(env_id)
    if needed is not None:
        return f'Install what it needs: pip install "{needed}".'
    similar = get_close_matches(env_id, gymnasium.registry, n=1)
    if similar:
        return f"Did you mean {similar[0]!r}?"
    return "Install the package that brings it, and name its module: `module:Environment-v0` has gymnasium import it."
