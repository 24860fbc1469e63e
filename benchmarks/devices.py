"""The option `--device` of the benchmarks, and the clock that goes with a device."""

import argparse
import time
from collections.abc import Callable

import torch


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=_present, default="cpu", help="of the models, such as cuda (default: cpu)")


def _present(device: str) -> str:
    """A device that is here; else a training would silently be one on the CPU."""
    present = torch.accelerator.current_accelerator(check_available=True)
    kinds = ["cpu"] if present is None else ["cpu", present.type]
    if device.partition(":")[0] not in kinds:
        raise argparse.ArgumentTypeError(f"{device}: PyTorch finds only {' and '.join(kinds)} here; name one of them")
    return device


def recorded_device(device: str | torch.device) -> dict[str, str]:
    """What a row of a record says of its device: the type, or nothing if that is the CPU."""
    kind = torch.device(device).type
    return {} if kind == "cpu" else {"device": kind}


def clock_of(device: str, cpu_clock: Callable[[], float] = time.process_time) -> Callable[[], float]:
    """Seconds: on the CPU those of `cpu_clock`; else those on the wall, when the device has done all work that was given to it."""
    if torch.device(device).type == "cpu":
        return cpu_clock

    def wall() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return wall
