"""How a person steers the running agent: one JSON line each way, through a door of this computer.

The door is a socket with the rights of its folder, which is its owner's alone; on Windows it is a
named pipe.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from axiom_client.control.snapshot import Snapshot
from axiom_client.decide import events as e
from axiom_client.decide.model import AgentState, Then
from axiom_client.decide.schedule import moment
from axiom_client.errors import ControlRefused, NoSuchTask
from axiom_client.host.clock import utc_offset_seconds

if sys.platform == "win32":
    from axiom_client.control.named_pipe import ControlListener, send_request
else:
    from axiom_client.control.unix_socket import ControlListener, send_request

LINE_BYTES_MAX = 1 << 20  # a request is short; a snapshot of a 240-core host is some 100 kB
ANSWER_SECONDS = 5.0  # the loop answers within milliseconds unless it hangs

Verb = Literal["snapshot", "pause", "resume", "drain", "sync", "abort", "reload", "stop"]


class Request(Struct, frozen=True, kw_only=True):
    """One wish. The other fields belong to some verbs only."""

    do: Verb
    seconds: float | None = None  # how long a pause is, or until a drain's deadline
    reason: str = ""
    then: Then = "stay"
    gpu: int | None = None
    task_id: int = 0


class Answer(Struct, frozen=True, kw_only=True):
    """``problem`` is empty when the wish was granted."""

    problem: str = ""
    snapshot: Snapshot | None = None


class Steerable(Protocol):
    """What the socket needs of the agent."""

    state: AgentState

    def put(self, event: e.Event) -> None:
        """Hand in an event."""

    def snapshot(self) -> Snapshot:
        """What may be seen now."""

    def ask_stop(self, reason: str) -> None:
        """End politely."""

    def reload(self) -> str:
        """Take up a changed configuration."""


class ControlServer:
    """Listens while the agent runs."""

    def __init__(self, path: Path, agent: Steerable) -> None:
        self._agent = agent
        self._door = ControlListener(path, self._serve, LINE_BYTES_MAX)

    async def start(self) -> None:
        """Listen. Raises ControlRefused where that cannot be."""
        await self._door.open()

    async def close(self) -> None:
        """Stop listening."""
        self._door.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
            writer.write(msgspec.json.encode(self._answer(line)) + b"\n")
            await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            pass  # the other side went away or sends no line: there is nobody to answer
        finally:
            writer.close()

    def _answer(self, line: bytes) -> Answer:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Answer(problem=f"not understood: {error}")
        agent, now = self._agent, time.monotonic()
        match request.do:
            case "snapshot":
                return Answer(snapshot=agent.snapshot())
            case "pause" | "resume" if not _has_gpu(agent.state, request.gpu):
                return Answer(problem=f"there is no GPU {request.gpu} on this host")
            case "pause":
                reason = request.reason or _paused_reason(request.seconds)
                agent.put(
                    e.PauseRequested(
                        now=now, for_seconds=request.seconds, reason=reason, gpu=request.gpu
                    )
                )
            case "resume":
                agent.put(e.ResumeRequested(now=now, gpu=request.gpu))
            case "drain":
                agent.put(
                    e.DrainRequested(
                        now=now,
                        reason=request.reason or "asked to by its owner",
                        then=request.then,
                        deadline_seconds=request.seconds,
                    )
                )
            case "sync":
                agent.put(e.SyncRequested(now=now))
            case "abort":
                if request.task_id not in agent.state.tasks:
                    return Answer(problem=f"no task {request.task_id}")
                agent.put(e.AbortRequested(now=now, task_id=request.task_id))
            case "reload":
                return Answer(problem=agent.reload())
            case "stop":
                agent.ask_stop(request.reason or "asked to by its owner")
        return Answer()


def _has_gpu(state: AgentState, gpu: int | None) -> bool:
    return gpu is None or 0 <= gpu < len(state.facts.gpus if state.facts else [])


def _paused_reason(seconds: float | None) -> str:
    if seconds is None:
        return "paused by you"
    now = time.time() + utc_offset_seconds()
    return f"paused by you until {moment(now + seconds, now)}"


# --- the other end: the command line --------------------------------------------------------------


def ask(path: Path, request: Request) -> Answer:
    """Ask the running agent. Raises NotRunning, ControlRefused, NoSuchTask."""
    try:
        line = msgspec.json.encode(request) + b"\n"
        answer = msgspec.json.decode(send_request(path, line, ANSWER_SECONDS), type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ControlRefused(
            "the running agent does not answer in a way this version understands; restart it"
        ) from None
    if answer.problem:
        if request.do == "abort":
            raise NoSuchTask(f"{answer.problem} on this host; list them with: axiom-client tasks")
        raise ControlRefused(answer.problem)
    return answer


def view(path: Path) -> Snapshot:
    """The running agent's snapshot. Raises as ``ask``."""
    answer: Any = ask(path, Request(do="snapshot")).snapshot
    if answer is None:
        raise ControlRefused("the running agent sent no snapshot; restart it")
    return msgspec.convert(answer, Snapshot)
