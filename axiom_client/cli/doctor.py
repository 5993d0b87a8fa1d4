"""``axiom-client doctor`` tests the sandbox on this host and prints each protection."""

from __future__ import annotations

import asyncio

import msgspec

from axiom_client.cli.shared import load
from axiom_client.decide.update import describe
from axiom_client.errors import SandboxMissing
from axiom_client.folders import find_folders
from axiom_client.host.gpu import vendors
from axiom_client.host.gpu.probe import GpuProbe
from axiom_client.releases.folder import ReleaseFolder
from axiom_client.releases.supported import why_unsupported
from axiom_client.sandbox.selftest import SandboxReport, self_test
from axiom_protocol import __version__


def print_sandbox_test(*, as_json: bool) -> None:
    """Test the sandbox on this host and print each protection. Raises SandboxMissing."""
    report = self_test()
    found = asyncio.run(GpuProbe().report())
    gpus = [(gpu, self_test(vendors.access([gpu]))) for gpu in found.gpus]
    if as_json:
        facts = msgspec.to_builtins(report)
        facts["gpus"] = [{"gpu": gpu, **msgspec.to_builtins(tried)} for gpu, tried in gpus]
        facts["gpu_problems"] = found.problems
        print(msgspec.json.format(msgspec.json.encode(facts)).decode())
    else:
        _print_report("sandbox", report)
        for gpu, tried in gpus:
            _print_report(f"sandbox of a task on {gpu.name} {gpu.uuid}", tried)
        for problem in found.problems:
            print(f"no GPU: {problem}")
    if not as_json:
        print_updates()
    for tried in (report, *(tried for _, tried in gpus)):
        if not tried.ok:
            raise SandboxMissing(f"no task is run here: {tried.reason}")
    if not as_json:
        print("the sandbox works on this host")


def print_updates() -> None:
    """Print the version, whether the agent updates itself, and what became of it."""
    folders = find_folders()
    enabled = load(folders)["update.enabled"]
    itself = "updates itself" if enabled else "does not update itself: update.enabled is false"
    print(f"axiom-client {__version__}: {why_unsupported() or itself}")
    for line in describe(ReleaseFolder(folders.releases).record(), ""):
        print(f"  {line}")


def _print_report(title: str, report: SandboxReport) -> None:
    print(f"{title}: {report.mode}" + (f" ({report.reason})" if report.reason else ""))
    for protection in report.protections:
        mark = "enforced    " if protection.enforced else "NOT ENFORCED"
        print(f"  {mark}  {protection.name:<46} {protection.reason}")
    for limit in report.by_agent:
        print(f"  by the agent  {limit}")
