"""`hf-seqrl serve`: an HTTP service of an agent, one session for each stream."""

import socket
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from hf_seqrl.cli.agents import add_agent_options, load_agent
from hf_seqrl.installation import install_command

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1", "[::1]")
_NEEDED = ("starlette", "uvicorn", "prometheus_client")


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if any(find_spec(name) is None for name in _NEEDED):
        raise ImportError(f"the service needs Starlette, uvicorn and prometheus-client: {install_command('serve')}")
    rules = [] if options.rules is None else yaml.safe_load(Path(options.rules).read_text(encoding="utf-8"))
    with socket.create_server((options.host, options.port), family=_family(options.host)) as listening:
        print("hf-seqrl: loading the libraries and the agent ...", file=sys.stderr)

        import torch

        from hf_seqrl.deploy.constraints import constrained_by
        from hf_seqrl.deploy.service import make_service

        torch.set_num_threads(options.threads)
        service = make_service(
            constrained_by(load_agent(options), rules),
            max_sessions=options.max_sessions,
            session_seconds=options.session_seconds,
            state_folder=options.state_dir,
            max_body_bytes=options.max_body_bytes,
            allowed_hosts=_allowed_hosts(options),
        )
        host, port = listening.getsockname()[:2]
        print(f"{options.agent} is served at http://{host}:{port}; Ctrl-C ends it", flush=True)
        _serve(service, listening)
    print("hf-seqrl serve: ended; every request that was accepted has been answered.", file=sys.stderr)
    return 0


def _serve(service: Any, listening: socket.socket) -> None:
    """Until Ctrl-C or SIGTERM; requests under way are finished first."""
    import uvicorn

    config = uvicorn.Config(service, log_level="warning", timeout_graceful_shutdown=30, limit_concurrency=2000)
    with suppress(KeyboardInterrupt):  # uvicorn stops, then passes the signal on
        uvicorn.Server(config).run(sockets=[listening])


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _allowed_hosts(options: Namespace) -> tuple[str, ...]:
    """A page of another site cannot reach a service of this machine alone by a name of its own."""
    if options.allowed_hosts:
        return tuple(options.allowed_hosts)
    return _LOCAL_HOSTS if options.host in _LOCAL_HOSTS else ("*",)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="hf-seqrl serve",
        description="Serve an agent over HTTP: one session for each stream, with its own history.",
    )
    parser.add_argument("agent", help="a folder or a Hub id")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: 127.0.0.1, this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 is any free port")
    parser.add_argument(
        "--rules", metavar="FILE", help="a YAML file with constraints that every action keeps, see docs/deployment.md"
    )
    parser.add_argument("--max_sessions", type=int, default=1000, help="at a time (default: 1000)")
    parser.add_argument(
        "--session_seconds",
        type=float,
        default=3600.0,
        help="a session that is not used for so long expires (default: 3600)",
    )
    parser.add_argument("--max_body_bytes", type=int, default=1 << 20, help="of a request (default: 1048576)")
    parser.add_argument(
        "--state_dir", metavar="FOLDER", help="keep the sessions here, so that a restart loses nothing"
    )
    parser.add_argument(
        "--allowed_hosts",
        nargs="+",
        metavar="NAME",
        help="Host headers to answer (default: this machine's, or all with --host)",
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    add_agent_options(parser)
    return parser
