"""Joins the project again as a new host of the same account, without help from its owner."""

from __future__ import annotations

import msgspec

from axiom_client.errors import HostRefused, ProjectProblem
from axiom_client.project.api import Api, Network
from axiom_client.project.identity import Identity
from axiom_protocol.messages import EnrolRequest, HostFacts


async def rejoin(
    identity: Identity, facts: HostFacts, network: Network, *, account_may_be_gone: bool = False
) -> Identity:
    """A new identity in the same project and account. Raises ProjectProblem.

    account_may_be_gone   a server restored from a backup may not know the account; if it does not,
                          a new one of the same name is made
    """
    if not (identity.account_key or account_may_be_gone):
        raise HostRefused("this host's folder is a copy of another's and holds no account key")
    api = Api(identity.url, network)
    try:
        try:
            answer = await api.enrol(EnrolRequest(host=facts, account_key=identity.account_key))
        except HostRefused:
            if not account_may_be_gone:
                raise
            answer = await api.enrol(EnrolRequest(host=facts, user=identity.user))
    finally:
        await api.close()
    return msgspec.structs.replace(
        identity, host_id=answer.host_id, token=answer.token, user=answer.user,
        account_key=answer.account_key or identity.account_key,
    )  # fmt: skip


def is_temporary(problem: ProjectProblem) -> bool:
    """Whether trying again later may help."""
    return not isinstance(problem, HostRefused)
