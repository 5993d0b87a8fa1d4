"""A study's declaration is signed: what it claims, over which version, and since when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tuf.api.metadata import Metadata, Targets

from axiom_protocol.verdicts.study_design import StudyDesign, read_study
from axiom_server.errors import ExperimentMalformed, ExperimentUnknown
from axiom_server.trust.metadata import BundlesError
from axiom_server.trust.signing_request import SigningRequest, request_targets
from axiom_server.trust.study_declaration import FIELD, study_declarations
from tests.trust.hostile import Project

REF = "short_walk@1.0.0"
STUDY = """
name = "walks"
experiment = "short_walk"
question = "Does the exponent depend on the number of walks?"
seeds = 6
[axes.walks]
values = [10, 100]
scale = "log"
[[findings]]
name = "level"
claim = "It does not."
kind = "trend"
field = "exponent"
along = "walks"
criterion = { above = -0.2, below = 0.2 }
"""


def design(bound: str = "0.2", name: str = "walks") -> StudyDesign:
    text = STUDY.replace("below = 0.2", f"below = {bound}")
    return read_study(text.replace('name = "walks"', f'name = "{name}"'))


@pytest.fixture
def published(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.publish()
    return project


def request(project: Project, *designs: StudyDesign) -> SigningRequest:
    repository = project.repository
    proposed = repository.propose(studies=[(one, REF) for one in designs]).targets
    assert proposed is not None
    metadata = repository.metadata
    return request_targets(metadata.root(), metadata.targets(), proposed, (), designs)


def declare(project: Project, *designs: StudyDesign) -> None:
    """Through a request, as staff do it."""
    asked = request(project, *designs).signed_by(project.keys.of("targets"))
    asked.changes()
    project.repository.install_targets(asked.signed_targets(), ())


def forged(asked: SigningRequest, change: Any) -> SigningRequest:
    """The request with records of its proposal changed."""
    proposed: Metadata[Targets] = Metadata[Targets].from_bytes(asked.proposed.encode())
    change(proposed.signed.unrecognized_fields[FIELD])
    return msgspec.structs.replace(asked, proposed=proposed.to_bytes().decode())


def test_the_record_is_signed_with_the_targets(published: Project) -> None:
    declare(published, design())
    record = published.repository.studies()["walks"]
    assert record["sha256"] == design().digest
    assert record["experiment"] == REF
    assert '"below":0.2' in record["criteria"]["level"]
    raw, root = published.repository.metadata.targets(), published.repository.metadata.root()
    root.signed.verify_delegate("targets", raw.signed_bytes, raw.signatures)
    raw.signed.unrecognized_fields[FIELD]["walks"]["criteria"]["level"] = "moved"
    moved: Metadata[Targets] = Metadata(raw.signed, raw.signatures)
    with pytest.raises(Exception, match="was signed by 0/1"):
        root.signed.verify_delegate("targets", moved.signed_bytes, moved.signatures)


def test_who_signs_sees_every_claim(published: Project) -> None:
    told = request(published, design()).changes()
    assert told[0] == f"declare the study walks over {REF} ({design().digest})"
    assert told[1].startswith("  level: ")
    assert '"below":0.2' in told[1]


def test_a_declared_study_never_changes(published: Project) -> None:
    declare(published, design())
    assert published.repository.propose(studies=[(design(), REF)]).targets is None
    with pytest.raises(ExperimentMalformed, match=r"level: criterion .*0.2.* -> .*0.3"):
        request(published, design("0.3"))
    declare(published, design("0.3", "walks_again"))
    assert set(published.repository.studies()) == {"walks", "walks_again"}


def test_a_study_needs_a_published_version(published: Project) -> None:
    with pytest.raises(ExperimentUnknown, match="never published"):
        published.repository.propose(studies=[(design(), "short_walk@9.0.0")])


def moved_criterion(records: dict[str, Any]) -> None:
    records["walks"]["criteria"]["level"] = "{}"


def other_seeds(records: dict[str, Any]) -> None:
    records["walks"]["seeds"] = 600


def another_name(records: dict[str, Any]) -> None:
    records["other"] = records.pop("walks")


@pytest.mark.parametrize("change", [moved_criterion, other_seeds, another_name])
def test_a_false_record_is_not_signed(published: Project, change: Any) -> None:
    with pytest.raises(BundlesError, match="write the request again"):
        forged(request(published, design()), change).signed_by(published.keys.of("targets"))


def test_a_record_cannot_be_changed_or_lost_in_a_later_request(published: Project) -> None:
    declare(published, design())
    later = request(published, design("0.3", "walks_again"))
    with pytest.raises(BundlesError, match="must not change"):
        forged(later, moved_criterion).changes()
    with pytest.raises(BundlesError, match="does not follow"):
        forged(later, lambda records: records.pop("walks")).changes()


def test_records_stay_when_something_else_is_signed(published: Project) -> None:
    declare(published, design())
    published.publish("1.1.0")
    assert set(study_declarations(published.repository.metadata.targets().signed)) == {"walks"}
