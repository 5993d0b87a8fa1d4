"""The BOINC client against a small project on loopback (see `boinc_project`)."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.peers.boinc_project import Project
from benchmarks.peers.driver import Driver, Outcome
from benchmarks.peers.tasks import read_spans

POLL_SECONDS = 0.05
STOP_SECONDS = 60.0

#: Nothing that a volunteer could not set: no delays, no suspension, every result reported at once.
CONFIG = """<cc_config><options>
<ncpus>{slots}</ncpus><no_gpus>1</no_gpus><start_delay>0</start_delay>
<skip_cpu_benchmarks>1</skip_cpu_benchmarks><allow_multiple_clients>1</allow_multiple_clients>
<report_results_immediately>1</report_results_immediately>
<suppress_net_info>1</suppress_net_info><dont_contact_ref_site>1</dont_contact_ref_site>
<fetch_minimal_work>0</fetch_minimal_work>
</options></cc_config>
"""
PREFERENCES = """<global_preferences>
<run_on_batteries>1</run_on_batteries><run_if_user_active>1</run_if_user_active>
<run_gpu_if_user_active>1</run_gpu_if_user_active><suspend_cpu_usage>0</suspend_cpu_usage>
<max_ncpus_pct>100</max_ncpus_pct><cpu_usage_limit>100</cpu_usage_limit>
<work_buf_min_days>0.1</work_buf_min_days><work_buf_additional_days>0.1</work_buf_additional_days>
<ram_max_used_busy_pct>90</ram_max_used_busy_pct><ram_max_used_idle_pct>90</ram_max_used_idle_pct>
<disk_max_used_gb>0</disk_max_used_gb><disk_max_used_pct>100</disk_max_used_pct>
<disk_min_free_gb>0</disk_min_free_gb><leave_apps_in_memory>0</leave_apps_in_memory>
</global_preferences>
"""
ACCOUNT = """<account><master_url>{url}</master_url><authenticator>bench</authenticator></account>
"""


class Boinc(Driver):
    """A new data folder, thus a new host, for each run: a client that had no work waits long."""

    name = "BOINC client"
    isolation = "a process for each task, not confined (Debian's unit confines the client)"
    install = "apt-get install boinc-client"

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(folder, slots)
        self._client: subprocess.Popen[bytes] | None = None
        self._hosts = 0

    @classmethod
    def version(cls) -> str:
        """The client's version."""
        program = shutil.which("boinc")
        if program is None:
            return ""
        done = subprocess.run([program, "--version"], capture_output=True, text=True)
        return done.stdout.split()[0] if done.stdout else "unknown"

    def start_server(self) -> None:
        """Serve the project."""
        self._project = Project(self.folder / "project")

    def start_host(self) -> None:
        """Start a client that is attached to the project."""
        self._hosts += 1
        folder = self.folder / f"host-{self._hosts}"
        folder.mkdir()
        (folder / "cc_config.xml").write_text(CONFIG.format(slots=self.slots))
        (folder / "global_prefs_override.xml").write_text(PREFERENCES)
        name = self._project.url.removeprefix("http://").strip("/").replace(":", "_")
        account = ACCOUNT.format(url=self._project.url)
        (folder / f"account_{name}.xml").write_text(account)
        self._project.install(folder / "projects" / name)
        with (folder / "output").open("wb") as output:
            self._client = subprocess.Popen(
                ["boinc", "--dir", str(folder), "--no_gui_rpc"], stdout=output, stderr=output
            )

    def stop_host(self) -> None:
        """End the client."""
        if self._client is not None:
            self._client.send_signal(signal.SIGTERM)
            try:
                self._client.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._client.kill()
                self._client.wait()
            self._client = None

    def run(self, work: str, count: int) -> Outcome:
        """Queue the tasks in the project, and run a new client until it has reported all."""
        self.stop_host()
        spans = self.folder / f"spans-{time.monotonic_ns()}"
        self._project.queue(work, count, spans)
        self.start_host()
        while len(self._project.received) < count:
            time.sleep(POLL_SECONDS)
        received = sorted(self._project.received)
        self.stop_host()
        # The project credits a result in the request that reports it.
        return Outcome(spans=read_spans(spans), received=received, credited=received[-1])

    def close(self) -> None:
        """Stop the client and the project."""
        self.stop_host()
        self._project.close()


DRIVER = Boinc
