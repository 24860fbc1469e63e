"""Lets another environment of the same Python use the torch that is installed in this one.

`python requirements/share_torch.py OTHER_PYTHON` links the files of torch's distribution into the other environment, which
then counts as having it installed: torch takes minutes to install, and this moment.
"""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path


def share(other_python: str) -> None:
    """Link every top-level folder of torch's distribution that lies in the packages' folder."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = Path(
        subprocess.run([other_python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    )
    torch = distribution("torch")
    for name in {file.parts[0] for file in torch.files or () if ".." not in file.parts}:
        link = target / name
        if not link.exists():
            link.symlink_to(torch.locate_file(name), target_is_directory=True)


if __name__ == "__main__":
    share(sys.argv[1])
