"""What a user calls a data set or an agent: a folder here, or an id of the Hub; told apart without waiting."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SECONDS = 3.0


def look_up(name: str, what: str) -> bool:
    """Whether a name that is no folder or file here may be loaded from the Hub, rather than from its cache alone.

    Args:
        name: As the user typed it.
        what: What it should be, for the message: `"agent"` or `"data set"`.

    Returns:
        `True` where the Hub can be asked; `False` where only its cache can.

    Raises:
        FileNotFoundError: it can be no id of the Hub; the message gives the nearest name here.
    """
    if not _HUB_ID.fullmatch(name) or name.endswith((".", "/")):
        raise FileNotFoundError(
            f"there is no {what} at {name!r}.{nearest(name)} An id of the Hub looks like user/name."
        )
    return hub_is_reachable()


@contextmanager
def offline() -> Iterator[None]:
    """Inside, the libraries of the Hub look into their caches alone, as with `HF_HUB_OFFLINE=1`."""
    import datasets

    former = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = former


def nearest(name: str) -> str:
    """A sentence with the most similar name in the same folder, or nothing."""
    path = Path(name).expanduser()
    while not path.parent.is_dir():  # the folder itself may be mistyped
        path = path.parent
    try:
        names = [entry for entry in os.listdir(path.parent) if not entry.startswith(".")]
    except OSError:
        return ""
    similar = get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(path.with_name(similar[0]))!r}?" if similar else ""


def hub_is_reachable() -> bool:
    """Whether the Hub answers at all; asked once, where the client would try again for half a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    address = urlsplit(constants.ENDPOINT)
    if address.scheme in getproxies():
        return True  # the proxy knows
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname, port), timeout=_SECONDS):
            return True
    except OSError:
        return False
