"""Runs transformers' own common tests on every model class of this package; `make test-transformers`.

    python tests/transformers_common/run.py [--build build/transformers-tests] [--source CHECKOUT] [pytest arguments ...]

The tests come from the sdist of the installed transformers, which pip downloads once. The sdist holds
`tests/test_modeling_common.py` and `tests/test_configuration_common.py`, but not the folders beside them, of which those two
import three names: `STAND_INS` takes their place. A checkout of transformers (`--source`, or `TRANSFORMERS_SOURCE`) has them
all; with it the tests of generation and of export are run, too.

Prints for each model class how many tests passed, failed and were skipped, by transformers or by us, and our reasons.
"""

import argparse
import os
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import transformers

HERE = Path(__file__).parent
NEEDED = ("test_modeling_common.py", "test_configuration_common.py")
STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}
""",
}
OURS = "skipped by hf_seqrl: "  # begins the reasons of tests that we skip


def main() -> int:
    """Run the tests; 0 where none failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build/transformers-tests"), help="where the sdist is kept")
    parser.add_argument(
        "--source", type=Path, default=os.environ.get("TRANSFORMERS_SOURCE") or None, help="a checkout"
    )
    arguments, rest = parser.parse_known_args()
    folder = arguments.build / transformers.__version__
    packages = _install(arguments.build / "packages", "parameterized")
    tests = arguments.source if arguments.source else _unpacked(folder)
    report = folder / "report.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(str(part.resolve()) for part in (tests, HERE.parents[1], packages))
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(HERE / "common_tests.py"),
        "-q",
        "--no-header",
        "--tb=short",
        "--disable-warnings",
        "-W",  # these tests warn of their own marks
        "default",
    ]
    environment = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run([*command, f"--junitxml={report}", *rest], env=environment)
    if not arguments.source:
        print(f"GenerationTesterMixin is not in the sdist of transformers {transformers.__version__}: give --source.")
    return _print_summary(report) or (finished.returncode if finished.returncode > 1 else 0)


def _install(folder: Path, package: str) -> Path:
    """A folder with a package that only these tests need."""
    if not (folder / package).exists():
        _pip("install", "--no-deps", "--target", str(folder), package)
    return folder


def _unpacked(folder: Path) -> Path:
    """A folder with transformers' common tests as the package `tests`."""
    package = folder / "tests"
    if not (package / NEEDED[-1]).exists():
        with TemporaryDirectory() as place:
            version = f"transformers=={transformers.__version__}"
            _pip("download", "--no-binary", ":all:", "--no-deps", "--dest", place, version)
            (archive,) = Path(place).glob("*.tar.gz")
            _extract(archive, package)
    for name, text in {"__init__.py": "", **STAND_INS}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).parent.joinpath("__init__.py").touch()
        (package / name).write_text(text, encoding="utf-8")
    return folder


def _extract(archive: Path, package: Path) -> None:
    package.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as members:
        for name in NEEDED:
            member = members.extractfile(f"transformers-{transformers.__version__}/tests/{name}")
            if member is None:
                raise FileNotFoundError(f"{archive.name} holds no tests/{name}: give a checkout with --source.")
            (package / name).write_bytes(member.read())


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", arguments[0], "--quiet", "--quiet", *arguments[1:]], check=True)


def _print_summary(report: Path) -> int:
    """The table of what happened; returns 1 where a test failed or none passed."""
    counts: dict[str, Counter] = defaultdict(Counter)
    reasons: dict[str, set[str]] = defaultdict(set)
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("classname", "").rpartition(".")[2]
        skipped = case.find("skipped")
        message = "" if skipped is None else skipped.get("message", "")
        if case.find("failure") is not None or case.find("error") is not None:
            counts[name]["failed"] += 1
        elif skipped is None:
            counts[name]["passed"] += 1
        elif OURS in message:
            counts[name]["ours"] += 1
            reasons[message.partition(OURS)[2]].add(f"{name}.{case.get('name')}")
        else:
            counts[name]["skipped"] += 1
    print(f"\n{'class':<44}{'passed':>8}{'failed':>8}{'not applicable':>16}{'skipped':>9}")
    for name, of in sorted(counts.items()):
        print(f"{name:<44}{of['passed']:>8}{of['failed']:>8}{of['skipped']:>16}{of['ours']:>9}")
    for reason, tests in sorted(reasons.items()):
        print(f"\nskipped: {reason}\n  " + "\n  ".join(sorted(tests)))
    return int(any(of["failed"] for of in counts.values()) or not any(of["passed"] for of in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
