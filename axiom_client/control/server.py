"""Lets commands control the running agent: one JSON line as request, one as answer.

They are sent through a Unix socket in the agent's folder, which only its owner can enter; on
Windows through a named pipe.
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
from axiom_client.decide.account import MODES_MAX, known_modes
from axiom_client.decide.model import AfterDrain, AgentState
from axiom_client.decide.schedule import moment
from axiom_client.errors import ControlRefused, NoSuchTask
from axiom_client.host.clock import utc_offset_seconds
from axiom_protocol.messages import HostSettings

if sys.platform == "win32":
    from axiom_client.control.named_pipe import ControlListener, send_request
else:
    from axiom_client.control.unix_socket import ControlListener, send_request

LINE_BYTES_MAX = 1 << 20  # a request is short; a snapshot of a 240-core host takes about 100 kB
ANSWER_SECONDS = 5.0  # the loop answers within milliseconds unless it hangs

Verb = Literal["snapshot", "pause", "resume", "drain", "sync", "abort", "reload", "stop", "mode"]


class Request(Struct, frozen=True, kw_only=True):
    """One command for the agent. ``do`` names it; the other fields belong to some commands only."""

    do: Verb
    seconds: float | None = None  # length of a pause, or time until a drain's deadline
    reason: str = ""
    then: AfterDrain = "stay"
    gpu: int | None = None
    task_id: int = 0
    mode: str = ""
    settings: HostSettings | None = None  # of a new or changed mode


class Answer(Struct, frozen=True, kw_only=True):
    """The agent's answer. ``problem``: why it refused the command; empty when it did not."""

    problem: str = ""
    snapshot: Snapshot | None = None


class ControlledAgent(Protocol):
    """The part of the agent that commands use."""

    state: AgentState

    def put(self, event: e.Event) -> None:
        """Queue an event."""

    def snapshot(self) -> Snapshot:
        """The agent's present state, for people and programs."""

    def ask_stop(self, reason: str) -> None:
        """End in an orderly way."""

    def reload(self) -> str:
        """Read the configuration again; returns what is wrong with it, or an empty string."""


class ControlServer:
    """Takes commands while the agent runs."""

    def __init__(self, path: Path, agent: ControlledAgent) -> None:
        self._agent = agent
        self._listener = ControlListener(path, self._serve, LINE_BYTES_MAX)

    async def start(self) -> None:
        """Start to listen. Raises ControlRefused where that is not possible."""
        await self._listener.open()

    async def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
            writer.write(msgspec.json.encode(self._answer(line)) + b"\n")
            await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            pass  # the other side closed, or sent no complete line: there is nothing to answer
        finally:
            writer.close()

    def _answer(self, line: bytes) -> Answer:
        try:
            request = msgspec.json.decode(line, type=Request)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Answer(problem=f"the agent does not understand the command: {error}")
        agent = self._agent
        if problem := _why_refused(request, agent.state):
            return Answer(problem=problem)
        match request.do:
            case "snapshot":
                return Answer(snapshot=agent.snapshot())
            case "reload":
                return Answer(problem=agent.reload())
            case "stop":
                agent.ask_stop(request.reason or "requested by the owner")
            case _:
                agent.put(_event(request))
        return Answer()


def _event(request: Request) -> e.Event:
    """The event by which a command reaches the agent's state machine."""
    now = time.monotonic()
    match request.do:
        case "pause":
            reason = request.reason or _paused_reason(request.seconds)
            return e.PauseRequested(
                now=now, for_seconds=request.seconds, reason=reason, gpu=request.gpu
            )
        case "resume":
            return e.ResumeRequested(now=now, gpu=request.gpu)
        case "drain":
            return e.DrainRequested(
                now=now,
                reason=request.reason or "requested by the owner",
                then=request.then,
                deadline_seconds=request.seconds,
            )
        case "abort":
            return e.AbortRequested(now=now, task_id=request.task_id)
        case "mode":
            return e.ModeChosen(now=now, mode=request.mode, settings=request.settings)
        case "sync":
            return e.SyncRequested(now=now)
        case _:
            raise AssertionError(f"{request.do} is answered without an event")


def _why_refused(request: Request, state: AgentState) -> str:
    """Why the agent cannot carry out a command; empty when it can."""
    if request.do in ("pause", "resume") and not _has_gpu(state, request.gpu):
        return f"there is no GPU {request.gpu} on this host"
    if request.do == "abort" and request.task_id not in state.tasks:
        return f"no task {request.task_id}"
    if request.do == "mode":
        return _why_no_mode(request, state)
    return ""


def _why_no_mode(request: Request, state: AgentState) -> str:
    known = known_modes(state)
    if request.mode and request.settings is None and request.mode not in known:
        names = ", ".join(sorted(known)) or "none yet"
        return (
            f"there is no mode {request.mode!r} on this host (known: {names}); "
            "define it by giving its limits"
        )
    if request.settings is not None and len({*state.modes, request.mode}) > MODES_MAX:
        return f"this host has {MODES_MAX} modes already; change one of them"
    return ""


def _has_gpu(state: AgentState, gpu: int | None) -> bool:
    return gpu is None or 0 <= gpu < len(state.facts.gpus if state.facts else [])


def _paused_reason(seconds: float | None) -> str:
    if seconds is None:
        return "paused by you"
    now = time.time() + utc_offset_seconds()
    return f"paused by you until {moment(now + seconds, now)}"


# --- the client side, for the command line --------------------------------------------------------


def ask(path: Path, request: Request) -> Answer:
    """Send a command to the running agent. Raises NotRunning, ControlRefused, NoSuchTask."""
    try:
        line = msgspec.json.encode(request) + b"\n"
        answer = msgspec.json.decode(send_request(path, line, ANSWER_SECONDS), type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ControlRefused(
            "the running agent's answer cannot be read, so it is probably of another version; "
            "restart it"
        ) from None
    if answer.problem:
        if request.do == "abort":
            raise NoSuchTask(f"{answer.problem} on this host; list them with: axiom-client tasks")
        raise ControlRefused(answer.problem)
    return answer


def request_snapshot(path: Path) -> Snapshot:
    """Get the running agent's snapshot. Raises as ``ask``."""
    answer: Any = ask(path, Request(do="snapshot")).snapshot
    if answer is None:
        raise ControlRefused("the running agent sent no snapshot; restart it")
    return msgspec.convert(answer, Snapshot)
