"""A version's criteria are signed with it, and never change without a new version."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, TargetFile, Targets

from axiom_server.errors import ExperimentMalformed
from axiom_server.trust.declaration import declare
from axiom_server.trust.targets import read_bundle
from tests.trust.hostile import Project, script


def with_bound(version: str, above: str) -> bytes:
    return script(version).replace(b"above = 0.4", f"above = {above}".encode())


def test_the_declaration_is_signed_with_the_bundle(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.publish()
    record = project.repository.declarations()["short_walk@1.0.0"]
    assert '"above":0.4' in record["criteria"]["diffusive"]
    assert (record["before"], record["changes"], record["planned_seeds"]) == (None, [], 0)
    raw = project.repository.metadata.targets()
    root = project.repository.metadata.root().signed
    root.verify_delegate("targets", raw.signed_bytes, raw.signatures)
    record_there = raw.signed.targets["short_walk@1.0.0.py"].unrecognized_fields["custom"]
    record_there["x-axiom-declaration"]["criteria"]["diffusive"] = "moved"
    forged: Metadata[Targets] = Metadata(raw.signed, raw.signatures)
    with pytest.raises(Exception, match="was signed by 0/1"):
        root.verify_delegate("targets", forged.signed_bytes, forged.signatures)


def test_a_new_version_says_what_it_changed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.publish()
    project.repository.publish(with_bound("1.1.0", "0.45"), project.keys)
    project.repository.publish(script("1.2.0", remark="\n# faster\n").replace(
        b"above = 0.4", b"above = 0.45"), project.keys)  # fmt: skip
    found = project.repository.declarations()
    assert found["short_walk@1.1.0"]["changes"] == ["diffusive: above 0.4 -> 0.45"]
    assert found["short_walk@1.2.0"]["changes"] == []
    assert found["short_walk@1.2.0"]["before"] == "1.1.0"
    digests = [found[f"short_walk@{v}"]["criteria_sha256"] for v in ("1.0.0", "1.1.0", "1.2.0")]
    assert digests[0] != digests[1] == digests[2]


def test_publishing_a_changed_criterion_under_an_old_version_is_refused(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.publish()
    with pytest.raises(ExperimentMalformed, match=r"criterion of diffusive: above 0.4 -> 0.45"):
        project.repository.publish(with_bound("1.0.0", "0.45"), project.keys)
    declared = project.repository.declarations()
    project.publish()
    assert project.repository.declarations() == declared, "the same bytes declare nothing anew"


def test_planned_seeds_stand_in_a_table_that_older_agents_ignore() -> None:
    plan = b"# [tool.axiom_plan]\n# planned_seeds = 60\n# ///\n\nfrom"
    planned = script().replace(b"# ///\n\nfrom", plan)
    manifest = read_bundle(planned).manifest
    assert manifest.planned_seeds == 60
    targets = Targets()
    targets.targets["short_walk@1.0.0.py"] = TargetFile.from_data(
        "short_walk@1.0.0.py", planned, ["sha256"]
    )
    declare(targets, manifest, targets.expires)
    custom = targets.targets["short_walk@1.0.0.py"].unrecognized_fields["custom"]
    assert custom["x-axiom-declaration"]["planned_seeds"] == 60
