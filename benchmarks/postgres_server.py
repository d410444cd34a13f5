"""A PostgreSQL server of one's own, in a folder, on a socket: for tests and benchmarks.

eval "$(python benchmarks/postgres_server.py /tmp/pg)"; python benchmarks/store_cost.py
python benchmarks/postgres_server.py /tmp/pg --stop
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path


def initdb() -> str | None:
    """Return where the command is that makes a server's folder, None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return str(found[-1]) if found else shutil.which("initdb")


class Server:
    """A server that trusts everybody who reaches its folder.

    Args:
        folder: of its data and socket, empty or that of a server that was here before.
        fsync: whether what is acknowledged survives a loss of power.
    """

    def __init__(self, folder: Path, fsync: bool = True) -> None:
        self.folder, command = folder.absolute(), initdb()
        assert command is not None, "There is no PostgreSQL server: make test-postgres."
        self.data, self.drop = self.folder / "data", []
        if os.getuid() == 0:  # the server does not run as root
            self.folder.mkdir(exist_ok=True)
            shutil.chown(self.folder, "postgres")
            self.drop = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self.control = [*self.drop, str(Path(command).with_name("pg_ctl")), "-D", str(self.data)]
        self.options = f"-k {self.folder} -c listen_addresses= -c fsync={'on' if fsync else 'off'}"
        if not self.data.exists():
            self._run(
                [*self.drop, command, "-D", self.data, "-U", "stillknows", "-A", "trust", "-N"]
            )

    @property
    def variables(self) -> dict[str, str]:
        """What leads libpq to it."""
        return {"PGHOST": str(self.folder), "PGUSER": "stillknows", "PGDATABASE": "postgres"}

    def start(self) -> None:
        """Start, and wait until it answers."""
        log = self.folder / "log"
        self._run([*self.control, "-w", "-o", self.options, "-l", log, "start"])

    def stop(self) -> None:
        """Stop at once; all connections are lost."""
        self._run([*self.control, "-w", "-m", "immediate", "stop"])

    def kill(self) -> None:
        """Kill (SIGKILL) the server and all its processes, and wait until they are gone."""
        first = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(first, signal.SIGSTOP)  # so that it has no more children than are seen
        family = [first, *_children(first)]
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        while any(map(_lives, family)):
            time.sleep(0.01)
        # where nobody waits for the dead, their numbers look alive
        for lock in (self.data / "postmaster.pid", self.folder / ".s.PGSQL.5432.lock"):
            lock.unlink(missing_ok=True)

    def _run(self, command: list[object]) -> None:
        quiet = subprocess.DEVNULL
        words = list(map(str, command))
        subprocess.run(words, check=True, stdout=quiet, stderr=quiet, cwd=self.folder)


def _children(process: int) -> list[int]:
    threads = Path(f"/proc/{process}/task")
    return [
        int(child)
        for thread in threads.iterdir()
        for child in (thread / "children").read_text().split()
    ]


def _lives(process: int) -> bool:
    """Return whether a process is there, and not only waited for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def main() -> None:
    """Start or stop a server, and say what leads to it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--no-fsync", dest="fsync", action="store_false", help="for speed alone")
    given = parser.parse_args()
    server = Server(given.folder, given.fsync)
    if given.stop:
        server.stop()
        return
    server.start()
    print(" ".join(f"export {name}={value};" for name, value in server.variables.items()))


if __name__ == "__main__":
    main()
