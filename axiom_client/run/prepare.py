"""Prepares what a task's process receives: the verified script, its manifest and the policy."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from axiom_client.run.channel import Assignment, encode_assignment
from axiom_client.run.spec import PlacedTask
from axiom_client.sandbox.policy import Limits, Policy
from axiom_client.sandbox.roots import read_only_roots
from axiom_protocol.manifest import SCRIPT_BYTES_MAX, Manifest, ManifestError, read_manifest


class CannotStart(Exception):
    """The task cannot be started; the message says why."""


class CannotStartNow(CannotStart):
    """The task cannot be started on this host at the moment; the experiment is not the cause."""


class Prepared(Struct, frozen=True):
    """All that a task's process needs, and the manifest that its result is checked against."""

    manifest: Manifest
    policy: Policy
    assignment: bytes


def prepare(spec: PlacedTask, *, background: bool, landlock: bool) -> Prepared:
    """Read and verify the script, derive the policy. Raises CannotStart."""
    source, manifest = _read_bundle(spec.source_path, spec.sha256)
    for folder in spec.folders:
        if not os.path.isdir(folder):
            raise CannotStartNow(f"the task's folder {folder} does not exist")
    if (spec.device == "cpu") != (spec.driver is None):
        raise CannotStart(f"the device {spec.device} and the driver's access do not match")
    policy = task_policy(spec, background=background)
    assignment = Assignment(
        experiment=spec.experiment,
        environment=spec.environment,
        parameters=spec.parameters,
        seed=spec.seed,
        budget_seconds=spec.budget_seconds,
        device=spec.device,
        result_bytes=spec.limits.result_bytes,
        policy=policy,
        others=spec.others,
        landlock=landlock,
        source_bytes=len(source),
    )
    return Prepared(manifest, policy, encode_assignment(assignment, source))


def task_policy(spec: PlacedTask, *, background: bool) -> Policy:
    """The sandbox policy of this task."""
    limits, gpu = spec.limits, spec.driver is not None
    return Policy(
        folder=os.path.realpath(spec.folder),
        folders=tuple(os.path.realpath(member.folder) for member in spec.others),
        read_only=read_only_roots(),
        limits=Limits(
            memory_bytes=limits.memory_bytes,
            file_bytes=limits.disk_bytes,
            cpu_seconds=limits.cpu_seconds,
            open_files=1024 if gpu else 64,
        ),
        threads=gpu,
        driver=spec.driver,
        background=background,
        cores=spec.cores,
    )


@lru_cache(maxsize=64)  # a host runs many tasks of few scripts; the digest identifies the source
def _parse(sha256: str, source: bytes) -> Manifest:
    try:
        return read_manifest(source.decode())
    except (ManifestError, UnicodeDecodeError) as error:
        raise CannotStart(f"the script's metadata is wrong: {error}") from None


def _read_bundle(path: str, sha256: str) -> tuple[bytes, Manifest]:
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise CannotStartNow(f"the script cannot be read: {error}") from None
    if hashlib.sha256(source).hexdigest() != sha256:
        raise CannotStartNow(f"the script {path} is not the one that was verified; fetch it again")
    if len(source) > SCRIPT_BYTES_MAX:
        raise CannotStart(f"the script is {len(source)} bytes; at most {SCRIPT_BYTES_MAX}")
    return source, _parse(sha256, source)
