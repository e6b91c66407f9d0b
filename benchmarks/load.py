"""The load generator: many volunteers in one process, each reports one digest task and takes one, as fast as it can.

It shares the machine with what it measures, so it does as little as possible: one thread, one epoll loop, TLS straight
on the sockets, bytes instead of HTTP objects, and every connection set up before the clock starts.

Run as `python -m benchmarks.load PLAN.json`; its last line is a `Load` as JSON.
"""

from __future__ import annotations

import hashlib
import resource
import select
import socket
import ssl
import sys
import time
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from xwgrid import wire
from xwgrid.applications.registry import application
from xwgrid.model import HostFacts, Program

RESULT_CLASS = "python benchmark"
_ANSWER_SECONDS = 60.0


class Volunteer(Struct, frozen=True, kw_only=True):
    """One connection's identity."""

    certificate: str  # PEM file
    key: str  # PEM file


class Plan(Struct, frozen=True, kw_only=True):
    """What to do."""

    host: str
    port: int
    ca: str  # PEM file
    volunteers: tuple[Volunteer, ...]
    seed: str  # of the digest job, one round
    warm_up_seconds: float
    seconds: float
    # Every so many reports a line goes to standard output, so that somebody brings new tasks. 0: never.
    tell_every: int = 0
    processes: dict[str, int]  # whose share of the processors is of interest: name → id, children included


class Load(Struct, frozen=True, kw_only=True):
    """What came of it. A call counts when its answer came within the measured time."""

    calls: int
    seconds: float
    p50_seconds: float
    p99_seconds: float
    worst_seconds: float
    reports: int  # confirmed as accepted, warm-up included
    idle_answers: int  # that brought no lease; the volunteer then waits for one in a held call
    processor_seconds: dict[str, float]  # of the generator and of the plan's processes, in the measured time


class _Lease(Struct, frozen=True):
    replica: int
    task: int


class _Confirmation(Struct, frozen=True):
    accepted: bool
    message: str = ""


class _Answer(Struct, frozen=True):
    """What is needed of a `WorkAnswer`: decoding the rest would cost the server's processor time."""

    leases: tuple[_Lease, ...] = ()
    confirmed: tuple[_Confirmation, ...] = ()
    reason: str | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_HEAD = b"POST /v1/work HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_WAIT = b'{"call":%d,"want":1,"wait_seconds":10}'
_BODY = (
    b'{"call":%d,"want":1,"reports":[{"replica":%d,"outcome":{"outcome":"finished","fingerprint":"%s","value":"%s",'
    b'"seconds":0.001,"result_class":"' + RESULT_CLASS.encode() + b'"}}]}'
)


class _Connection:
    """One volunteer: its socket, and the answer it waits for."""

    def __init__(self, plan: Plan, volunteer: Volunteer) -> None:
        context = ssl.create_default_context(cafile=plan.ca)
        context.load_cert_chain(volunteer.certificate, volunteer.key)
        plain = socket.create_connection((plan.host, plan.port), timeout=_ANSWER_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=plan.host)
        self.host = f"{plan.host}:{plan.port}".encode()
        # The first call of a daemon carries its clock in milliseconds.
        self.call = int(time.time() * 1000)
        self.received = b""
        self.sent_at = 0.0

    def send(self, body: bytes) -> None:
        """Send a work call. It is far smaller than any socket's buffer, so it goes out whole."""
        message = _HEAD % (self.host, len(body)) + body
        self.sent_at = time.perf_counter()
        if self.socket.send(message) != len(message):
            raise RuntimeError("a work call did not fit into the socket's buffer")

    def receive(self) -> _Answer | None:
        """Return the answer when all of it is there."""
        while True:
            try:
                data = self.socket.recv(65_536)
            except ssl.SSLWantReadError:
                return None
            if not data:
                raise RuntimeError(f"the server closed the connection: {self.received[:500]!r}")
            received = self.received = self.received + data if self.received else data
            end = received.find(b"\r\n\r\n")
            if end < 0:
                continue
            head = received[:end].lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(received) < end + 4 + length:
                continue
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"the server refused a work call: {received[:2_000]!r}")
            self.received = b""
            return _decode(received[end + 4 :])


class _Generator:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.fingerprint = application("digest").value_fingerprint
        self.reports = 0
        self.idle_answers = 0
        self.connections = {
            connection.socket.fileno(): connection
            for connection in (_Connection(plan, volunteer) for volunteer in plan.volunteers)
        }
        self.poll = select.epoll()

    def prepare(self) -> None:
        """Let every volunteer tell what it is and take its first lease."""
        facts = HostFacts(
            name="benchmark",
            system="Linux",
            processor="none",
            cores=1,
            memory_bytes=1 << 30,
            programs=(Program(runtime="python", version="3.11", result_class=RESULT_CLASS),),
            sandbox="benchmark",
        )
        for connection in self.connections.values():
            connection.send(wire.encode(wire.WorkRequest(call=connection.call, want=1, facts=facts)))
            answer = connection.receive()
            while answer is None:
                answer = connection.receive()
            connection.socket.setblocking(False)
            self.report(connection, answer)
        for number in self.connections:
            self.poll.register(number, select.EPOLLIN)

    def report(self, connection: _Connection, answer: _Answer) -> None:
        """Do the task that the answer brought, which takes two hashes, and report it."""
        connection.call += 1
        if not answer.leases:
            self.idle_answers += 1
            connection.send(_WAIT % connection.call)
            return
        lease = answer.leases[0]
        value = hashlib.sha256(b"%s/%d" % (self.plan.seed.encode(), lease.task)).hexdigest()
        fingerprint = self.fingerprint(value).encode()
        connection.send(_BODY % (connection.call, lease.replica, fingerprint, value.encode()))

    def run(self, seconds: float) -> list[float]:
        """Answer every answer with the next call for so long; return each call's seconds."""
        latencies = []
        end = time.perf_counter() + seconds
        now = time.perf_counter()
        while now < end:
            for number, _event in self.poll.poll(end - now):
                connection = self.connections[number]
                answer = connection.receive()
                if answer is None:
                    continue
                now = time.perf_counter()
                latencies.append(now - connection.sent_at)
                for confirmation in answer.confirmed:
                    if not confirmation.accepted:
                        raise RuntimeError(f"the server refused a report: {confirmation.message}")
                    self.reports += 1
                    if self.plan.tell_every and self.reports % self.plan.tell_every == 0:
                        sys.stdout.write(f"{self.reports}\n")
                        sys.stdout.flush()
                self.report(connection, answer)
            now = time.perf_counter()
        return latencies

    def finish(self) -> None:
        """Wait for the answers to what was sent, so that their reports are counted too."""
        for connection in self.connections.values():
            connection.socket.setblocking(True)
            answer = connection.receive()
            while answer is None:
                answer = connection.receive()
            self.reports += sum(confirmation.accepted for confirmation in answer.confirmed)
            connection.socket.close()
        self.poll.close()


def generate(plan: Plan) -> Load:
    """Carry out a plan."""
    generator = _Generator(plan)
    generator.prepare()
    generator.run(plan.warm_up_seconds)
    before = _processor_seconds(plan.processes)
    begun = time.perf_counter()
    latencies = sorted(generator.run(plan.seconds))
    elapsed = time.perf_counter() - begun
    after = _processor_seconds(plan.processes)
    generator.finish()
    return Load(
        calls=len(latencies),
        seconds=elapsed,
        p50_seconds=latencies[len(latencies) // 2],
        p99_seconds=latencies[len(latencies) * 99 // 100],
        worst_seconds=latencies[-1],
        reports=generator.reports,
        idle_answers=generator.idle_answers,
        processor_seconds={name: after[name] - before[name] for name in after},
    )


def _processor_seconds(processes: dict[str, int]) -> dict[str, float]:
    """Return the processor time so far of the generator and of each process with its living children."""
    mine = resource.getrusage(resource.RUSAGE_SELF)
    found = {"generator": mine.ru_utime + mine.ru_stime}
    for name, number in processes.items():
        root = psutil.Process(number)
        found[name] = 0.0
        for process in (root, *root.children(recursive=True)):
            times = process.cpu_times()
            found[name] += times.user + times.system
    return found


if __name__ == "__main__":
    wanted = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    sys.stdout.write(msgspec.json.encode(generate(wanted)).decode() + "\n")
