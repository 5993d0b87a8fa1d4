"""The local socket through which a person steers the running agent: one JSON line each way.

The socket has the rights of its folder, which is its owner's alone. On Windows a named pipe will
take its place; until then these commands need a Unix-like system.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from axiom_client.decide import events as e
from axiom_client.decide.model import AgentState, Then
from axiom_client.decide.schedule import moment
from axiom_client.errors import ControlRefused, NoSuchTask, NotRunning
from axiom_client.host.clock import utc_offset_seconds
from axiom_client.view import Snapshot

LINE_BYTES_MAX = 1 << 20  # a request is short; a snapshot of a 240-core host is some 100 kB
ANSWER_SECONDS = 5.0  # the loop answers within milliseconds unless it hangs
PATH_BYTES_MAX = 100  # the kernel's bound on a socket's path is 104 to 108

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
    """Listens while the agent runs. A dead agent's socket is replaced: the lock proves it dead."""

    def __init__(self, path: Path, agent: Steerable) -> None:
        self._path = path
        self._agent = agent
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises ControlRefused where no socket can be made."""
        if sys.platform == "win32":
            return
        if len(str(self._path).encode()) > PATH_BYTES_MAX:
            raise ControlRefused(
                f"the path {self._path} is too long for a socket; "
                "set AXIOM_CLIENT_DIR to a shorter one"
            )
        self._path.unlink(missing_ok=True)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, str(self._path), limit=LINE_BYTES_MAX
            )
            self._path.chmod(0o600)
        except OSError as error:
            raise ControlRefused(
                f"cannot listen at {self._path}: {error.strerror}; check the folder's rights"
            ) from None

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

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
        answer = msgspec.json.decode(_exchange(path, request), type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ControlRefused(
            "the running agent does not answer in a way this version understands; restart it"
        ) from None
    if answer.problem:
        if request.do == "abort":
            raise NoSuchTask(f"{answer.problem} on this host; list them with: axiom-client tasks")
        raise ControlRefused(answer.problem)
    return answer


def _exchange(path: Path, request: Request) -> bytes:
    if sys.platform == "win32":
        raise ControlRefused("steering a running agent is not possible on Windows yet; restart it")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as file:
                return file.readline()
    except (FileNotFoundError, ConnectionRefusedError):
        raise NotRunning from None
    except TimeoutError:
        raise ControlRefused(
            "the running agent does not answer; see its log with: axiom-client log"
        ) from None
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ControlRefused(
                f"the agent at {path} belongs to another user; run this command as that user"
            ) from None
        raise ControlRefused(f"the agent at {path} cannot be reached: {error.strerror}") from None


def view(path: Path) -> Snapshot:
    """The running agent's snapshot. Raises as ``ask``."""
    answer: Any = ask(path, Request(do="snapshot")).snapshot
    if answer is None:
        raise ControlRefused("the running agent sent no snapshot; restart it")
    return msgspec.convert(answer, Snapshot)
