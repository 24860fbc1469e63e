"""What has to be installed for an environment."""

from importlib.metadata import metadata, packages_distributions

import gymnasium


def requirement(env_id: str) -> str | None:
    """What pip installs for an environment; `None` where this package brings it, or nothing is known of it.

    Example:
        >>> requirement("CartPole-v1"), requirement("Hopper-v5"), requirement("Nowhere-v0")
        (None, 'gymnasium[mujoco]', None)
    """
    try:
        entry_point = gymnasium.spec(env_id).entry_point
    except gymnasium.error.Error:
        return None
    module = entry_point.partition(":")[0] if isinstance(entry_point, str) else entry_point.__module__
    package, *inner = module.split(".")
    if package == "hf_seqrl":
        return None
    if package != "gymnasium":
        return packages_distributions().get(package, [package])[0]
    extra = inner[1].replace("_", "-")
    if extra == "classic-control":  # part of every installation
        return None
    return f"gymnasium[{extra}]" if extra in metadata("gymnasium").get_all("Provides-Extra") else "gymnasium"
