"""The pins of a release hold every dependency, at the version that the tests run with."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.pages import ROOT

PINS = ROOT / "packaging" / "pins"
LISTS = {"agent": (), "agent-torch": ("torch",), "server": ("server",)}
AGAIN = "run packaging/pin.py after a change of dependencies"


def pinned(text: str) -> dict[str, str]:
    """Name -> version, of a file of ``name==version`` lines."""
    found = re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)
    return {canonicalize_name(name): version for name, version in found}


def declared(extras: tuple[str, ...]) -> list[str]:
    """What pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in extras for line in optional[extra])]


def needed(lines: list[str]) -> set[str]:
    """The names of these and of all that they need on this system."""
    names: set[str] = set()
    waiting = [(Requirement(line), "") for line in lines]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name in names and not requirement.extras:
            continue
        names.add(name)
        below = [Requirement(line) for line in requires(name) or []]
        waiting += [(wanted, of) for wanted in below for of in requirement.extras or {""}]
    return names


@pytest.mark.parametrize("name", LISTS)
def test_every_dependency_is_pinned(name: str) -> None:
    pins = pinned((PINS / f"{name}.txt").read_text())
    assert needed(declared(LISTS[name])) <= pins.keys(), AGAIN


@pytest.mark.parametrize("name", LISTS)
def test_pins_are_the_versions_that_are_tested(name: str) -> None:
    tested = pinned((ROOT / "constraints.txt").read_text())
    pins = pinned((PINS / f"{name}.txt").read_text())
    other = {n: v for n, v in pins.items() if n in tested and v.partition("+")[0] != tested[n]}
    assert not other, AGAIN
