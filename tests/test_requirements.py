"""The locked versions and the oldest ones are of what pyproject.toml asks for today."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
ASKED_FOR = sorted({*PROJECT["dependencies"], *OPTIONAL})


def _versions(name):
    """Of every pinned package, the versions that some Python or platform gets."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pinned = [re.match(r"([\w.-]+)==([\w.]+)", line) for line in lines if not line.startswith("#")]
    assert all(pinned)
    versions = {}
    for match in pinned:
        versions.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return versions


@pytest.mark.parametrize("name", ["locked.txt", "oldest.txt"])
@pytest.mark.parametrize("text", ASKED_FOR)
def test_pinned_versions_are_in_the_ranges_of_the_project(text, name):
    requirement = Requirement(text)
    versions = _versions(name)[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version) for version in versions), versions


@pytest.mark.parametrize("text", [text for text in ASKED_FOR if Requirement(text).specifier])
def test_the_oldest_version_is_the_lower_bound(text):
    requirement = Requirement(text)
    (lower,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
    (oldest,) = _versions("oldest.txt")[canonicalize_name(requirement.name)]
    assert oldest.split(".")[: lower.count(".") + 1] == lower.split(".")


@pytest.mark.parametrize("name", ["locked.txt", "oldest.txt"])
def test_no_cuda_library_is_pinned(name):
    assert [pinned for pinned in _versions(name) if re.match(r"nvidia|cuda|triton", pinned)] == []
