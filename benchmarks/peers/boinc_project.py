"""A BOINC project in small: master page, scheduler, file upload.

It speaks BOINC's scheduler protocol in the form of version 7 (github.com/BOINC/boinc/wiki,
"RpcProtocol" and "FileUpload"): the client asks for seconds of work and reports results, the
scheduler answers with workunits and acknowledgements. It keeps everything in memory, and credits a
result when it is reported. The application is one that the volunteer installs ("anonymous
platform"), since the client runs a downloaded one only with the project's signature.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks import load

PROGRAM_NAME = "peer_task_100.py"
PROGRAM = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(load.ROOT)!r})
from benchmarks.peers.tasks import record
value = record(sys.argv[1], int(sys.argv[2]), sys.argv[3])
open("out", "w").write(repr(value))
open("boinc_finish_called", "w").write("0\\n")  # what BOINC's library writes at the end
"""
TASK_SECONDS = 5.0  # estimated; the client asks for work by it
FLOPS = 1e9
DEADLINE_SECONDS = 86_400

REPLY = """<scheduler_reply>
<scheduler_version>720</scheduler_version>
<master_url>{url}</master_url>
<project_name>Peers</project_name>
<user_name>bench</user_name>
<hostid>1</hostid>
<request_delay>1</request_delay>
{body}
</scheduler_reply>
"""
APPLICATION = f"""<app_info>
<app><name>peer</name><user_friendly_name>Peer</user_friendly_name></app>
<file_info><name>{PROGRAM_NAME}</name><executable/></file_info>
<app_version><app_name>peer</app_name><version_num>100</version_num>
<platform>x86_64-pc-linux-gnu</platform><avg_ncpus>1</avg_ncpus><flops>{FLOPS}</flops>
<file_ref><file_name>{PROGRAM_NAME}</file_name><main_program/></file_ref></app_version>
</app_info>
"""
TASK = """<workunit><name>{wu}</name><app_name>peer</app_name>
<command_line>{arguments}</command_line>
<rsc_fpops_est>{operations}</rsc_fpops_est><rsc_fpops_bound>1e15</rsc_fpops_bound>
<rsc_memory_bound>5e8</rsc_memory_bound><rsc_disk_bound>1e8</rsc_disk_bound></workunit>
<file_info><name>{wu}_0_0</name><generated_locally/><upload_when_present/>
<max_nbytes>10000</max_nbytes><upload_url>{url}upload</upload_url></file_info>
<result><name>{wu}_0</name><wu_name>{wu}</wu_name><platform>x86_64-pc-linux-gnu</platform>
<version_num>100</version_num><report_deadline>{deadline}</report_deadline>
<file_ref><file_name>{wu}_0_0</file_name><open_name>out</open_name><copy_file/></file_ref>
</result>
"""
REPORTED = re.compile(r"<result>\s*<name>([^<]+)</name>")
WANTED = re.compile(r"<work_req_seconds>([0-9.e+]+)</work_req_seconds>")


class Project:
    """The project, served by a thread. ``received``: when each result was reported."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._waiting: list[tuple[str, str]] = []  # workunit's name, and its command line
        self._sent = 0
        self.received: list[float] = []
        self._known: set[str] = set()
        self._lock = threading.Lock()
        project = self

        class Handler(_Handler):
            served = project

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def install(self, folder: Path) -> None:
        """Install the application in a client's folder of this project."""
        folder.mkdir(parents=True)
        (folder / "app_info.xml").write_text(APPLICATION)
        (folder / PROGRAM_NAME).write_text(PROGRAM)
        (folder / PROGRAM_NAME).chmod(0o755)

    def queue(self, work: str, count: int, spans: Path) -> None:
        """Queue tasks in place of all earlier ones."""
        with self._lock:
            self._sent += 1
            self.received, self._known = [], set()
            self._waiting = [
                (f"{work}_{self._sent}_{i}", f"{work} {i} {spans}") for i in range(count)
            ]

    def scheduler(self, request: str) -> str:
        """The reply to a request of the client."""
        now = time.monotonic()
        with self._lock:
            reported = [n for n in REPORTED.findall(_reports(request)) if n not in self._known]
            self._known.update(reported)
            self.received += [now] * len(reported)
            wanted = WANTED.search(request)
            tasks = self._take(float(wanted[1]) if wanted else 0.0)
        body = "".join(f"<result_ack><name>{n}</name></result_ack>\n" for n in reported)
        body += "".join(self._task(*task) for task in tasks)
        return REPLY.format(url=self.url, body=body)

    def _take(self, seconds: float) -> list[tuple[str, str]]:
        count = len(self._waiting) if seconds > 0 else 0
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _task(self, name: str, arguments: str) -> str:
        return TASK.format(
            wu=name, arguments=arguments, operations=TASK_SECONDS * FLOPS, url=self.url,
            deadline=int(time.time()) + DEADLINE_SECONDS,
        )  # fmt: skip

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _reports(request: str) -> str:
    """The request without the list of tasks that the client still has."""
    return request.partition("<other_results>")[0]


class _Handler(BaseHTTPRequestHandler):
    """The project's three addresses."""

    served: Project
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """The master page, which names the scheduler, or the application."""
        if self.path.startswith("/download/"):
            self._answer(PROGRAM)
        else:
            self._answer(
                f"<html><!--\n<scheduler>{self.served.url}scheduler</scheduler>\n--></html>"
            )

    def do_POST(self) -> None:
        """A scheduler request, or an upload: its XML header is followed by the file's bytes."""
        raw = self.rfile.read(int(self.headers["content-length"])).decode(errors="replace")
        if self.path.startswith("/upload"):
            size = "<file_size>0</file_size>" if "<get_file_size>" in raw else ""
            self._answer(f"<data_server_reply><status>0</status>{size}</data_server_reply>\n")
        else:
            self._answer(self.served.scheduler(raw))

    def _answer(self, text: str) -> None:
        raw = text.encode()
        self.send_response(200)
        self.send_header("content-type", "text/xml")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""
