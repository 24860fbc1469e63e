"""Two hosts on one machine: network namespaces that are joined by a virtual cable, each with an address of its own.

They share the file system, as the machines of a cluster do, and nothing else of the network.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

INTERFACE = "cable"
BIN = Path(sys.executable).parent


def _ip(*arguments, check=True):
    return subprocess.run(["ip", *map(str, arguments)], check=check, capture_output=True, text=True)


class Host:
    """A network namespace; `run` starts a command in it.

    Args:
        number: 0 or 1; the address is 10.77.0.1 or 10.77.0.2.
    """

    def __init__(self, number):
        self.number = number
        self.address = f"10.77.0.{number + 1}"
        self.name = f"hf-seqrl-{os.getpid()}-{number}"

    def run(self, command, log, **environment):
        """Start a command, which writes into the file `log`; returns the `Popen`."""
        variables = {**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1", **environment}
        variables["PATH"] = f"{BIN}{os.pathsep}{variables['PATH']}"
        with Path(log).open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *map(str, command)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=variables,
            )

    def kill(self):
        """End all processes of the host at once, as a power failure does."""
        for number in map(int, _ip("netns", "pids", self.name, check=False).stdout.split()):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue


def two_hosts():
    """Yield a pair of `Host`; skip the test where namespaces cannot be made."""
    if shutil.which("ip") is None or os.name != "posix" or os.geteuid() != 0:
        pytest.skip("needs root and the command `ip`, for network namespaces")
    hosts = Host(0), Host(1)
    try:
        for host in hosts:
            made = _ip("netns", "add", host.name, check=False)
            if made.returncode:
                pytest.skip(f"needs network namespaces: {made.stderr.strip()}")
        ends = [("name", INTERFACE, "netns", host.name) for host in hosts]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            _ip("-n", host.name, "link", "set", INTERFACE, "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield hosts
    finally:
        for host in hosts:
            host.kill()
            _ip("netns", "delete", host.name, check=False)


def wait_for(condition, seconds=180.0, what="the condition"):
    """Wait until `condition()` holds.

    Raises:
        TimeoutError: it does not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.02)


def finish(processes, logs, seconds=300.0):
    """Wait for all processes and check that each has succeeded."""
    end = time.monotonic() + seconds
    codes = [process.wait(max(1.0, end - time.monotonic())) for process in processes]
    assert codes == [0] * len(codes), "\n".join(f"{log}: {Path(log).read_text()[-3000:]}" for log in logs)
