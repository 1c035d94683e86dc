"""Drives the shims of one binary, container by container, as a daemon would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.shim.harness import process

from dunnage.api import task_v2_pb2 as pb
from dunnage.api import typeurl
from dunnage.api.runc_options_pb2 import Options
from dunnage.api.services import TASK_V2, TASK_V3, TaskMethods
from dunnage.api.times import nanoseconds
from dunnage.bootstrap import wire as dialects
from dunnage.bootstrap.address import unix_name
from dunnage.bootstrap.flags import Flags
from dunnage.conformance.said import Answered, Kind
from dunnage.errors import DunnageError
from dunnage.ttrpc.services import Method

from . import procs
from .site import Site
from .subjects import FORKSERVER, Subject
from .wire import LIMIT_S, Call, Link, answer

_END_S: Final = 10.0


class Failed(Exception):
    """A shim did not do what it was asked to; the text is for a person."""


@dataclass
class Container:
    """One container, from its bundle on."""

    id: str
    bundle: Path
    link: Link | None = None
    methods: TaskMethods = TASK_V2
    pid: int = 0
    is_leader: bool = True
    """Whether it has a connection of its own."""


@dataclass
class Driver:
    """The containers of one subject, all in a namespace of its own."""

    site: Site
    subject: Subject
    dialect: dialects.Dialect = dialects.Dialect.LEGACY
    answers: list[Answered] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    """Containers whose shim was killed: of them not everything can be said."""

    def __post_init__(self) -> None:
        self.namespace = self.site.namespace(self.subject.name)
        self._count = 0
        packed = typeurl.pack(Options(binary_name=self.site.runtime))
        self._options = packed
        self._environment = {
            "PATH": os.environ["PATH"],
            "TTRPC_ADDRESS": f"{self.site.address}.ttrpc",
            **self.subject.environment,
        }
        self._errors = self.site.directory / f"{self.subject.name}.stderr"

    def use_fork_server(self, directory: Path) -> None:
        """Let a warm shim of ours come from a new fork server from now on."""
        if self.subject.environment.get(FORKSERVER, "").startswith("/"):
            directory.mkdir(mode=0o700)
            there = {FORKSERVER: str(directory)}
            self.subject = replace(self.subject, environment=there)
            self._environment |= there

    # -- actions

    def prepare(
        self, args: list[str], pod: str = "", *, is_pod: bool = False
    ) -> Container:
        """Make a bundle; of a member of ``pod``, or of a pod's first container."""
        self._count += 1
        id_ = f"{self.subject.name}-{self._count}"
        bundle = self.site.bundle(
            self.namespace, id_, args, id_ if is_pod else pod or None
        )
        return Container(id_, bundle)

    def start_shim(self, container: Container, leader: Container | None = None) -> None:
        """Run ``start`` to its end, and connect to where it says.

        In a pod: ``leader`` has the connection; it must be the same shim's.
        """
        stdout = self._run(container, "start", self._stdin(container.id))
        try:
            endpoint = dialects.parse_answer(stdout)
        except DunnageError as error:
            raise Failed(f"start answered {stdout[:80]!r}: {error}") from error
        self.site.note_socket(endpoint.address)
        container.methods = TASK_V3 if endpoint.version > 2 else TASK_V2
        if leader:
            container.link, container.is_leader = leader.link, False
        else:
            container.link = Link(self.site.hub, unix_name(endpoint.address))

    def delete_action(self, container: Container) -> None:
        """Run ``delete``."""
        self._run(container, "delete", b"", bundle=str(container.bundle))

    def _run(
        self, container: Container, action: str, stdin: bytes, **more: str
    ) -> bytes:
        flags = Flags(
            namespace=self.namespace,
            address=self.site.address,
            id=container.id,
            action=action,
            **more,  # type: ignore[arg-type]
        )
        argv = [str(self.subject.binary), *flags.argv()]
        with self._errors.open("ab") as errors, alarm():
            running = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=container.bundle,
                env=self._environment,
                bufsize=0,
            )
            assert running.stdin
            assert running.stdout
            with running:
                running.stdin.write(stdin)
                running.stdin.close()
                stdout = running.stdout.read()
        if running.returncode:
            said = self._errors.read_bytes()[-400:].decode(errors="replace")
            raise Failed(f"{action} of {container.id}: {running.returncode}: {said}")
        return stdout

    def _stdin(self, id_: str) -> bytes:
        told = dialects.Start(
            dialect=self.dialect,
            options=dialects.Options(self._options.type_url, self._options.value),
            ttrpc_address=f"{self.site.address}.ttrpc",
            grpc_address=self.site.address,
        )
        return dialects.render_start(told, id=id_, namespace=self.namespace)

    # -- calls

    def begin(self, container: Container, name: str, **fields: Any) -> Call:
        """Begin a call about a container."""
        method, request = self._request(container, name, fields)
        assert container.link
        return container.link.begin(method, request)

    def call(self, container: Container, name: str, **fields: Any) -> Any:
        """Call a method about a container."""
        method, request = self._request(container, name, fields)
        assert container.link
        return container.link.call(method, request)

    def answer(self, container: Container, name: str, call: Call) -> Any:
        """Return what a call that is over was answered with, or raise it."""
        return answer(getattr(container.methods, name), call)

    def _request(
        self, container: Container, name: str, fields: Mapping[str, Any]
    ) -> tuple[Method[Any, Any], Any]:
        method: Method[Any, Any] = getattr(container.methods, name)
        if name == "create":
            return method, self._create_request(container)
        return method, method.request(**{"id": container.id, **fields})

    def _create_request(self, container: Container) -> pb.CreateTaskRequest:
        root = str(self.site.rootfs)
        return pb.CreateTaskRequest(
            id=container.id,
            bundle=str(container.bundle),
            rootfs=[{"type": "bind", "source": root, "options": ["rbind", "rw"]}],  # type: ignore[list-item]
            options=self._options,
        )

    # -- a life

    def create(self, container: Container) -> None:
        """Call Create."""
        container.pid = self.call(container, "create").pid

    def launch(
        self,
        args: list[str],
        *,
        leader: Container | None = None,
        is_pod: bool = False,
    ) -> Container:
        """Have a container run; as a member of the pod of ``leader``, or as such."""
        container = self.prepare(args, leader.id if leader else "", is_pod=is_pod)
        self.start_shim(container, leader)
        self.create(container)
        self.call(container, "start")
        return container

    def delete(self, container: Container) -> None:
        """Call Delete of a container, and note what was answered."""
        self._note(container, "", container.pid, self.call(container, "delete"))

    def shutdown(self, container: Container) -> None:
        """Call Shutdown: a shim may leave before it has answered."""
        with contextlib.suppress(DunnageError):
            self.call(container, "shutdown")

    def bury(self, container: Container) -> None:
        """Forget a container that is deleted."""
        if container.link and container.is_leader:
            container.link.close()
        self.site.drop_bundle(container.bundle)

    def end(self, container: Container, *, is_killed: bool = True) -> None:
        """End a container from whatever it runs to its burial."""
        if is_killed:
            self.call(container, "kill", signal=int(signal.SIGKILL))
        self.hears_exit(container)
        self.delete(container)
        self.shutdown(container)
        self.bury(container)

    def hears_exit(self, container: Container, exec_id: str = "") -> bool:
        """Wait for an exit event; where it is lost, for the exit itself."""
        if self.site.hub.hears(container.id, Kind.EXIT, exec_id):
            return True
        self.call(container, "wait", exec_id=exec_id)
        return False

    def kill_shim(self, container: Container) -> None:
        """Kill the shim of a container, and wait until it is gone."""
        self.cut.add(container.id)
        pid = procs.shim_of(self.namespace, container.id)
        if pid is None:
            raise Failed(f"no process is the shim of {container.id}")
        os.kill(pid, signal.SIGKILL)
        if not procs.await_end(pid, _END_S):
            raise Failed(f"{pid} does not die")

    # -- execs

    @staticmethod
    def exec_fields(exec_id: str, args: list[str]) -> dict[str, Any]:
        """Return the fields of an Exec."""
        value = json.dumps(process(args)).encode()
        return {"exec_id": exec_id, "spec": {"type_url": "x", "value": value}}

    def note_exec(
        self, container: Container, exec_id: str, pid: int, deleted: Any
    ) -> None:
        """Note what the Delete of an exec was answered."""
        self._note(container, exec_id, pid, deleted)

    def _note(self, container: Container, exec_id: str, pid: int, deleted: Any) -> None:
        self.answers.append(
            Answered(
                container.id,
                exec_id,
                was_started=True,
                pid=pid,
                exit_status=deleted.exit_status,
                exited_at_ns=nanoseconds(deleted.exited_at),
                was_deleted=True,
            )
        )


def probe(driver: Driver) -> None:
    """Find out which dialect of `start` a shim speaks, by a life in it.

    Raises:
        Failed: none.
    """
    told = []
    for dialect in (dialects.Dialect.PARAMS, dialects.Dialect.LEGACY):
        driver.dialect = dialect
        container = driver.prepare(["true"])
        try:
            driver.start_shim(container)
            driver.create(container)
            driver.call(container, "start")
            driver.end(container, is_killed=False)
        except (Failed, DunnageError, OSError) as error:
            told.append(f"{dialect.value}: {error}")
            driver.cut.add(container.id)
            continue
        return
    raise Failed("; ".join(told))


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raise TimeoutError in what takes too long."""

    def raise_it(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, raise_it)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
