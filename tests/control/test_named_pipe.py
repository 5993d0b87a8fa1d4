"""The parts of the Windows pipe that can be tested on other systems: names, answers in pieces.

multiprocessing's connections behave the same on all systems, so a real pair of them is used.
"""

from __future__ import annotations

from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from axiom_client.control.named_pipe import PREFIX, exchange, pipe_name
from axiom_client.errors import ControlRefused


def test_each_agent_s_folder_has_a_pipe_of_its_own() -> None:
    one = pipe_name(Path(r"C:\Users\Ada\AppData\Local\axiom-client\control.sock"))
    assert one.startswith(PREFIX)
    assert len(one) < 256  # Windows' bound on a pipe's name
    assert "\\" not in one.removeprefix(PREFIX)
    assert one == pipe_name(Path(r"c:\users\ada\appdata\local\axiom-client/control.sock"))
    assert one != pipe_name(Path(r"C:\Users\Bob\AppData\Local\axiom-client\control.sock"))


def test_an_answer_in_pieces_is_put_together() -> None:
    ours, theirs = Pipe()
    with ours, theirs:
        for piece in (b'{"problem"', b': ""', b"}\n"):
            theirs.send_bytes(piece)
        assert exchange(ours, b'{"do": "sync"}\n', 5.0) == b'{"problem": ""}\n'
        assert theirs.recv_bytes() == b'{"do": "sync"}\n'


def test_a_hanging_agent_does_not_block_its_caller() -> None:
    ours, theirs = Pipe()
    with ours, theirs, pytest.raises(ControlRefused, match="does not answer"):
        exchange(ours, b"{}\n", 0.05)


def test_the_part_of_an_answer_before_the_agents_end_is_kept() -> None:
    ours, theirs = Pipe(duplex=False)  # what is written to it goes elsewhere
    aside, asking = Pipe(duplex=False)
    with ours, aside, asking:
        theirs.send_bytes(b"{half")
        theirs.close()
        both = SimpleNamespace(
            send_bytes=asking.send_bytes, poll=ours.poll, recv_bytes=ours.recv_bytes
        )
        assert exchange(both, b"{}\n", 5.0) == b"{half"
