"""How the package is installed: the one place that says where it comes from.

It is on no package index yet, so its name there could belong to anybody. Until it is published, every card, Space, notebook
and message installs it from its repository. On release, `_SOURCE` becomes `None`, and all of them name the index.
"""

REPOSITORY_URL = "https://github.com/hf-seqrl/hf-seqrl"
_SOURCE: str | None = f"git+{REPOSITORY_URL}"


def requirement(*extras: str) -> str:
    """The package with these extras, as pip and `requirements.txt` take it.

    Example:
        >>> requirement("mujoco", "minari")
        'hf-seqrl[mujoco,minari] @ git+https://github.com/hf-seqrl/hf-seqrl'
    """
    name = f"hf-seqrl[{','.join(extras)}]" if extras else "hf-seqrl"
    return f"{name} @ {_SOURCE}" if _SOURCE else name


def install_command(*extras: str) -> str:
    """The line that installs the package with these extras.

    Example:
        >>> install_command()
        'pip install "hf-seqrl @ git+https://github.com/hf-seqrl/hf-seqrl"'
    """
    return f'pip install "{requirement(*extras)}"'
