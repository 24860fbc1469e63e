"""An exported agent as a page that plays without Python: a static Space, or any web server."""

import shutil
from importlib.resources import files
from pathlib import Path

ENV_ID = "CartPole-v1"  # whose dynamics and drawing the page has
RUNTIME_VERSION = "1.30.0"  # of onnxruntime-web
_RUNTIME_URL = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{RUNTIME_VERSION}/dist/"
_SCRIPT = "ort.wasm.min.js"
_INTEGRITY = "sha384-Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq"
_RUNTIME_FILES = (_SCRIPT, "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_VENDORED = "onnxruntime-web"  # the folder beside the page
_PAGE = ("agent.mjs", "cartpole.mjs", "page.mjs")


def check_browser(env_id: str | None, is_acting: bool, runtime: str | Path | None) -> None:
    """Find out before the work whether there is a page for an agent.

    Args:
        env_id: The agent's environment.
        is_acting: Whether the agent acts.
        runtime: As for `write_page`.

    Raises:
        ValueError: it plays another environment.
        FileNotFoundError: files of onnxruntime-web are missing.
    """
    if env_id != ENV_ID or not is_acting:
        raise ValueError(f"the agent's environment is {env_id}: the page draws {ENV_ID} alone.")
    if runtime is not None:
        for name in _RUNTIME_FILES:
            if not Path(runtime, name).is_file():
                raise FileNotFoundError(f"{runtime} has no {name}: expected the folder dist/ of onnxruntime-web.")


def write_page(folder: Path, runtime: str | Path | None = None) -> None:
    """Write the page into the folder of an exported agent.

    Args:
        folder: The folder.
        runtime: The folder `dist/` of the npm package onnxruntime-web, to serve it beside the page. By default the page loads it from
            jsDelivr, at a fixed version and with a checksum of the script.
    """
    source = files("hf_seqrl.deploy") / "page"
    for name in _PAGE:
        (folder / name).write_text((source / name).read_text(encoding="utf-8"), encoding="utf-8")
    place, integrity = _RUNTIME_URL, f' integrity="{_INTEGRITY}" crossorigin="anonymous"'
    if runtime is not None:
        place, integrity = f"{_VENDORED}/", ""
        (folder / _VENDORED).mkdir()
        for name in _RUNTIME_FILES:
            shutil.copyfile(Path(runtime, name), folder / _VENDORED / name)
    page = (source / "index.html").read_text(encoding="utf-8")
    for name, value in (("SCRIPT", place + _SCRIPT), ("INTEGRITY", integrity), ("RUNTIME", place)):
        page = page.replace(f"{{{{{name}}}}}", value)
    (folder / "index.html").write_text(page, encoding="utf-8")
