"""A whole Slurm cluster on this machine, as its user: a controller, four nodes with a GPU each (simulated), munge.

    python tests/slurm/cluster.py up FOLDER      start it and print how to use it
    python tests/slurm/cluster.py down FOLDER    end it, jobs included

All its files are in one folder, so clusters of several checkouts are independent, and the machine's own Slurm
(services and configuration) is not changed.  It needs the programs of Debian's packages slurmctld, slurmd,
slurm-client and munge, and no root.
"""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "munged")
os.environ["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # the daemons' folders, which may be missing in a user's PATH
NODES = ("node1", "node2", "node3", "node4")
CONFIGURATION = """\
ClusterName=neurotransfer
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=30
MaxJobCount=20000
TaskEpilog={folder}/epilog
NodeName=DEFAULT CPUs=4 RealMemory=80000 Gres=gpu:1
NodeName=node[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[4]}]
PartitionName=cpu Nodes=node[1-4] Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes=node[1-4] MaxTime=INFINITE
PartitionName=short Nodes=node[1-4] MaxTime=1
"""


class Cluster:
    """A cluster whose files are in `folder`.

    `environment` is for processes that use the cluster.  Each node runs the script ``epilog`` after each task; tests
    use it to simulate wrong clocks and late files.  Clusters that start at the same time need different rows of ports,
    `row`.
    """

    def __init__(self, folder: Path, row: int = 0) -> None:
        self.folder, self.row = folder.resolve(), row
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def up(self, seconds: float = 60) -> None:
        """Start everything and wait until every node is idle.

        Raises
        ------
        RuntimeError
            if a program is missing, or the nodes are not idle in time, with the ends of the logs
        """
        missing = [name for name in PROGRAMS if shutil.which(name) is None]
        if missing:
            packages = "apt-get install slurmctld slurmd slurm-client munge"
            raise RuntimeError(f"{', '.join(missing)} not installed; {packages}")
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("state", "bin", *NODES):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)  # munged refuses a socket in a folder that others can write
        self._write_configuration()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o600)
        parts = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={self.folder}/munge.{ending}" for option, ending in parts.items()]
        self._start("munged", "--force", *files)
        self.start_controller("-c")
        for node in NODES:
            self.start_node(node)
        self.wait_idle(seconds)

    def _write_configuration(self) -> None:
        (self.folder / "epilog").write_text("#!/bin/sh\n")
        (self.folder / "epilog").chmod(0o755)
        # the plugin's job step drops SLURM_CONF, which clusters with /etc/slurm do not need
        srun = f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
        (self.folder / "bin/srun").write_text(srun)
        (self.folder / "bin/srun").chmod(0o755)
        plugins = _beside("slurmctld", "lib/*/slurm-wlm", "lib/*/slurm", "lib*/slurm")
        facts = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": self.folder}
        text = CONFIGURATION.format(
            **facts, plugins=plugins, ports=_free_ports(1 + len(NODES), 17000 + 1000 * self.row)
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")

    def _start(self, *line: str) -> None:
        done = subprocess.run(line, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{line[0]} does not start: {done.stdout}{done.stderr}")

    def start_controller(self, *options: str) -> None:
        """Start slurmctld; without ``-c`` it continues from its saved state."""
        self._start("slurmctld", *options)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._start("slurmd", "-N", node, "-d", str(_beside("slurmd", "sbin/slurmstepd*")))

    def kill_controller(self) -> None:
        """Kill slurmctld, as in a power failure."""
        _kill(self._pid("slurmctld"))

    def kill_node(self, node: str) -> None:
        """Kill a node, as in a power failure: its slurmd, its job steps and all their processes, at once."""
        pids = {self._pid(node)} | {pid for job in self.jobs(node) for pid in self._processes(job)}
        for pid in pids:
            _kill(pid)

    def down(self) -> None:
        """End the cluster, with its running jobs."""
        if (self.folder / "slurm.conf").exists():
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                for pid in {pid for node in NODES for job in self.jobs(node) for pid in self._processes(job)}:
                    _kill(pid)
        for name in ("slurmctld", *NODES, "munge"):
            _kill(self._pid(name))

    def controller(self) -> int | None:
        """The process id of slurmctld."""
        return self._pid("slurmctld")

    def jobs(self, node: str) -> list[str]:
        """Ids of the jobs on a node."""
        return self.ask("squeue", "--noheader", "--format=%i", f"--nodelist={node}", timeout=5).split()

    def state(self, job: str) -> str:
        """A job's state in squeue's words; empty if the job is gone."""
        return self.ask("squeue", "--noheader", "--format=%T", f"--jobs={job}").strip()

    def ask(self, *line: object, timeout: float = 30) -> str:
        """The output of one of Slurm's commands; empty if it fails."""
        done = subprocess.run(
            [str(part) for part in line], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        return done.stdout if done.returncode == 0 else ""

    def wait_idle(self, seconds: float) -> None:
        """Wait until sinfo shows every node idle."""
        end = time.monotonic() + seconds
        states: list[str] = []
        while time.monotonic() < end:
            states = self.ask("sinfo", "--noheader", "--Node", "--partition=cpu", "--format=%T").split()
            if len(states) == len(NODES) and set(states) == {"idle"}:
                return
            time.sleep(0.2)
        logs = "\n".join("".join(path.read_text().splitlines(True)[-5:]) for path in self.folder.glob("*.log"))
        raise RuntimeError(f"nodes are {states or 'not known'} after {seconds:.0f} s\n{logs}")

    def _pid(self, name: str) -> int | None:
        try:
            return int((self.folder / (f"{name}.pid")).read_text())
        except (OSError, ValueError):
            return None

    def _processes(self, job: str) -> set[int]:
        """Every process of a job: its slurmstepds, and processes with the job's id in their environment."""
        mark, found = f"SLURM_JOB_ID={job}".encode(), set()
        ours = f"{self.folder}/bin:".encode()  # in every job's PATH; other clusters have the same ids
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"slurmstepd: [{job}." in (path / "cmdline").read_text(errors="replace"):
                    found.add(int(path.name))
                variables = (path / "environ").read_bytes().split(b"\0")
                if mark in variables and any(ours in variable for variable in variables):
                    found.add(int(path.name))
        return found


def peak_mb_of(pid: int) -> float:
    """The peak resident memory of a process so far, in MB; 0 if it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1000 if found else 0.0


def cpu_seconds_of(pid: int) -> float:
    """The CPU time of a process so far, without its children's, in seconds; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _beside(program: str, *patterns: str) -> Path:
    """The first matching file below a program's installation prefix."""
    prefix = Path(shutil.which(program)).resolve().parents[1]
    found = [path for pattern in patterns for path in sorted(prefix.glob(pattern))]
    if not found:
        raise RuntimeError(f"there is no {patterns[0]} in {prefix}")
    return found[0]


def _free_ports(count: int, start: int) -> list[int]:
    """Consecutive free ports."""
    for first in range(start, start + 1000, 10):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(range(first, first + count))
    raise RuntimeError(f"no free ports from {start} on")


def _kill(pid: int | None) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    action, cluster = sys.argv[1], Cluster(Path(sys.argv[2]))
    if action == "down":
        cluster.down()
        shutil.rmtree(cluster.folder, ignore_errors=True)
    else:
        try:
            cluster.up()
        except RuntimeError as error:
            sys.exit(f"slurm-up: {error}")
        print(f"export SLURM_CONF={cluster.folder}/slurm.conf PATH={cluster.folder}/bin:$PATH")
