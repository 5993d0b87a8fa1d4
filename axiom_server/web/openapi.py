"""``GET /openapi.json``: the OpenAPI description, derived from the message types of the wire."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from axiom_protocol import __version__
from axiom_protocol.messages import (
    PROTOCOL_VERSION,
    AccountLink,
    EnrolAnswer,
    EnrolRequest,
    Problem,
    ProjectInfo,
    SyncAnswer,
    SyncRequest,
)

Json = dict[str, Any]
MESSAGES = (ProjectInfo, AccountLink, EnrolRequest, EnrolAnswer, SyncRequest, SyncAnswer, Problem)
REQUESTS = ("EnrolRequest", "SyncRequest")
#: Errors that any route may answer; docs/api.md says what to do then.
ALWAYS = {
    429: "too many requests from this host or address",
    503: "the database does not answer, or the server has as many requests as it can answer soon",
}
#: Errors that a route with a body may answer.
TAKES_BODY = {
    400: "the body is not what the route takes",
    413: "the body, unpacked, is over 32 MiB (1 MiB to join), or holds too many values",
    415: "a Content-Encoding other than gzip",
    426: "agent and server have no protocol version in common",
}
NO_TOKEN = {401: "no token, or one that is not known: attach again"}
NOT_THERE = {404: "there is no such thing"}


@cache
def document() -> Json:
    """The description, OpenAPI 3.1."""
    _, schemas = msgspec.json.schema_components(
        MESSAGES, ref_template="#/components/schemas/{name}"
    )
    for name in REQUESTS:
        schemas[name]["properties"]["protocol_version"] = {"const": PROTOCOL_VERSION,
                                                           "default": PROTOCOL_VERSION}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Axiom",
            "version": __version__,
            "description": "What agents and visitors ask of a project's server. Bodies may be "
            "gzipped both ways; unknown fields are ignored.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"host": {"type": "http", "scheme": "bearer",
                                         "description": "the token of EnrolAnswer"}},
        },
    }  # fmt: skip


def _paths() -> Json:
    number = {"type": "integer", "minimum": 1, "maximum": 2**53}
    return {
        "/api/v1/project": {"get": _get("What an agent needs before it attaches", "ProjectInfo")},
        "/api/v1/hosts": {"post": _post(
            "Join as a host, of an account or with a new one", "EnrolRequest", "EnrolAnswer", 201,
            {403: "the account key is wrong, or the project asks for one", 409: "name taken"},
        )},
        "/api/v1/sync": {"post": {
            **_post("Reports and needs in; grants and acknowledgements out", "SyncRequest",
                    "SyncAnswer", 200, NO_TOKEN),
            "security": [{"host": []}],
        }},
        "/api/v1/account-links": {"post": {
            "summary": "A page that signs the owner of this host in once",
            "security": [{"host": []}],
            "responses": {"201": _body("the link", "AccountLink"), **_refusals(
                NO_TOKEN | ALWAYS | {409: "the host belongs to no account"})},
        }},
        "/api/v1/hosts/self": {"delete": {
            "summary": "Detach: the host's token is worth nothing after",
            "security": [{"host": []}],
            "responses": {"204": {"description": "detached"}, **_refusals(NO_TOKEN | ALWAYS)},
        }},
        "/bundles/{kind}/{name}": {"get": _page(
            "A file of the TUF repository", "application/octet-stream", NOT_THERE,
            [_in_path("kind", {"enum": ["metadata", "targets"]}),
             _in_path("name", {"type": "string", "minLength": 1})],
        )},
        **_pages(number),
        "/metrics": {"get": _page("For Prometheus", "text/plain")},
        "/healthz": {"get": _page("The process answers", "text/plain")},
        "/readyz": {"get": _page("The database answers", "text/plain")},
        "/openapi.json": {"get": _page("This description", "application/json")},
    }  # fmt: skip


#: Path -> what it is, and its media types.
PAGES = {
    "/": ("The front page", "text/html"),
    "/experiments": ("Every experiment", "text/html"),
    "/experiments/{name}": ("One experiment", "text/html"),
    "/experiments/{name}/{version}": ("One version of it", "text/html"),
    "/experiments/{name}/{version}/{file}": (
        "script.py, crate.zip; of a finding FINDING.csv, .json, .parquet, .light.svg, .dark.svg",
        "text/plain", "text/csv", "application/json", "application/vnd.apache.parquet",
        "image/svg+xml", "application/zip"),
    "/experiments/{name}/{version}/figures/{file}": (
        "A declared figure over all seeds: FIGURE.light.png, .dark.png, .csv, .json, .parquet",
        "image/png", "text/csv", "application/json", "application/vnd.apache.parquet"),
    "/studies": ("Every study", "text/html"),
    "/studies/{name}": ("One study", "text/html"),
    "/studies/{name}/{file}": (
        "design.json, map.light.png, map.dark.png; cells or a finding as .csv, .json, .parquet; "
        "finding.FINDING.light.svg, .dark.svg",
        "application/json", "image/png", "image/svg+xml", "text/csv",
        "application/vnd.apache.parquet"),
    "/leaders": ("Volunteers by ?order=total, recent or day; ?page=", "text/html"),
    "/leaders/{name}": ("Volunteers by the credit of one experiment", "text/html"),
    "/leaders/{name}/teams": ("Teams by the credit of one experiment", "text/html"),
    "/users/{number}": ("A volunteer", "text/html"),
    "/users/{number}/badge.svg": ("A volunteer's badge", "image/svg+xml"),
    "/users/{number}/certificate.svg": ("A volunteer's certificate", "image/svg+xml"),
    "/hosts/{number}": ("A host", "text/html"),
    "/teams": ("Teams by ?order=total, recent or day; ?page=", "text/html"),
    "/teams/{number}": ("A team", "text/html"),
    "/sessions": ("The latest sessions", "text/html"),
    "/sessions/{number}": ("A session log", "text/html"),
    "/sessions/{number}/{file}": (
        "A session's credit by volunteer, and its hosts: credit or hosts as .csv, .json, .parquet",
        "text/csv", "application/json", "application/vnd.apache.parquet"),
    "/status": ("The server's status", "text/html"),
    "/status.json": ("The server's status", "application/json"),
    "/status.xml": ("The server's status with BOINC's names", "text/xml"),
    "/feeds/findings.atom": ("Verdicts", "application/atom+xml"),
    "/feeds/sessions.atom": ("Sessions", "application/atom+xml"),
    "/charts/{file}": ("The project's credit by day", "image/svg+xml"),
    "/charts/{kind}/{file}": (
        "Credit by day of users, hosts, teams or experiments; .csv with the results too",
        "image/svg+xml", "text/csv"),
    "/static/{name}": ("What pages load", "text/css", "text/javascript", "image/svg+xml"),
    "/stats/{name}": ("tables.xml, user.gz, host.gz, team.gz, as BOINC's", "text/xml",
                      "application/gzip"),
}  # fmt: skip


def _pages(number: Json) -> Json:
    """The pages and files for browsers and statistics sites."""
    made: Json = {}
    for path, (summary, *media_types) in PAGES.items():
        names = re.findall(r"{(\w+)}", path)
        parameters = [
            _in_path(n, number if n == "number" else {"type": "string", "minLength": 1})
            for n in names
        ]
        page = _page(summary, media_types[0], NOT_THERE if names else None, parameters)
        page["responses"]["200"]["content"] = {kind: {} for kind in media_types}
        made[path] = {"get": page}
    return made


def _get(summary: str, answer: str) -> Json:
    return {"summary": summary, "responses": {"200": _body(summary, answer), **_refusals(ALWAYS)}}


def _post(summary: str, request: str, answer: str, status: int, refusals: dict[int, str]) -> Json:
    content = {"application/json": {"schema": _ref(request)}}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": content},
        "responses": {
            str(status): _body(summary, answer),
            **_refusals(TAKES_BODY | refusals | ALWAYS),
        },
    }


def _page(
    summary: str, media_type: str, refusals: dict[int, str] | None = None,
    parameters: list[Json] | None = None,
) -> Json:  # fmt: skip
    found: Json = {"description": summary, "content": {media_type: {}}}
    return {
        "summary": summary,
        "parameters": parameters or [],
        "responses": {"200": found, **_refusals((refusals or {}) | ALWAYS)},
    }


def _in_path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _body(description: str, name: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _ref(name)}}}


def _refusals(statuses: dict[int, str]) -> Json:
    problem = {"application/problem+json": {"schema": _ref("Problem")}}
    return {
        str(status): {"description": why, "content": problem}
        for status, why in sorted(statuses.items())
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}
