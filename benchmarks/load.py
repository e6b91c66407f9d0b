"""The load generator: many volunteers in one process, each reports one digest task and takes one, as fast as it can.

It shares the machine with what it measures, so it does as little as possible: one thread, one epoll loop, TLS straight
on the sockets, bytes instead of HTTP objects, and every connection set up before the clock starts.

Run as `python -m benchmarks.load PLAN.json`; it prints a `Load` as JSON.
"""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import sys
import time
from collections.abc import Iterator
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
    # Instead of all the time: so many calls for each line on standard input, and a `Burst` on standard output.
    burst: int | None = None
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


class Burst(Struct, frozen=True, kw_only=True):
    """So many calls, from the first one sent until the last one but those still under way was answered."""

    calls: int
    seconds: float


class Lease(Struct, frozen=True):
    replica: int
    task: int


class _Confirmation(Struct, frozen=True):
    accepted: bool
    message: str = ""


class Answer(Struct, frozen=True):
    """What is needed of a `WorkAnswer`: decoding the rest would cost the server's processor time."""

    leases: tuple[Lease, ...] = ()
    confirmed: tuple[_Confirmation, ...] = ()
    reason: str | None = None


_fingerprint = application("digest").value_fingerprint
_decode = msgspec.json.Decoder(Answer).decode
_HEAD = b"POST /v1/work HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_WAIT = b'{"call":%d,"want":1,"wait_seconds":10}'
_REPORT = (
    b'{"call":%d,"want":%d,"reports":[{"replica":%d,"outcome":{"outcome":"finished","fingerprint":"%s","value":"%s",'
    b'"seconds":0.001,"result_class":"' + RESULT_CLASS.encode() + b'"}}]}'
)


class Connection:
    """One volunteer: its socket, and the answer it waits for."""

    def __init__(self, plan: Plan, volunteer: Volunteer) -> None:
        context = ssl.create_default_context(cafile=plan.ca)
        context.load_cert_chain(volunteer.certificate, volunteer.key)
        plain = socket.create_connection((plan.host, plan.port), timeout=_ANSWER_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=plan.host)
        self.sent_at = 0.0
        self._host = f"{plan.host}:{plan.port}".encode()
        self._seed = plan.seed.encode()
        # The first call of a daemon carries its clock in milliseconds.
        self._call = int(time.time() * 1000)
        self._received = b""

    def introduce(self, want: int) -> None:
        """Send the first call of a daemon: what this machine is."""
        facts = HostFacts(
            name="benchmark",
            system="Linux",
            processor="none",
            cores=1,
            memory_bytes=1 << 30,
            programs=(Program(runtime="python", version="3.11", result_class=RESULT_CLASS),),
            sandbox="benchmark",
        )
        self._send(wire.encode(wire.WorkRequest(call=self._call, want=want, facts=facts)))

    def wait_for_work(self) -> None:
        """Send a call that the server holds until there is work."""
        self._call += 1
        self._send(_WAIT % self._call)

    def report(self, lease: Lease, want: int) -> None:
        """Do the task, which takes two hashes, and send a call that reports it and asks for `want` more."""
        self._call += 1
        value = hashlib.sha256(b"%s/%d" % (self._seed, lease.task)).hexdigest()
        fingerprint = _fingerprint(value).encode()
        self._send(_REPORT % (self._call, want, lease.replica, fingerprint, value.encode()))

    def receive(self) -> Answer | None:
        """Return the answer when all of it is there; None when the socket does not block and more must come."""
        while True:
            try:
                data = self.socket.recv(65_536)
            except ssl.SSLWantReadError:
                return None
            if not data:
                raise RuntimeError(f"the server closed the connection: {self._received[:500]!r}")
            received = self._received = self._received + data if self._received else data
            end = received.find(b"\r\n\r\n")
            if end < 0:
                continue
            head = received[:end].lower()
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            if len(received) < end + 4 + length:
                continue
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"the server refused a work call: {received[:2_000]!r}")
            self._received = b""
            return _decode(received[end + 4 :])

    def answer(self) -> Answer:
        """Wait for the answer on a socket that blocks."""
        answer = self.receive()
        while answer is None:
            answer = self.receive()
        return answer

    def _send(self, body: bytes) -> None:
        message = _HEAD % (self._host, len(body)) + body
        self.sent_at = time.perf_counter()
        # It is far smaller than any socket's buffer, so it goes out whole.
        if self.socket.send(message) != len(message):
            raise RuntimeError("a work call did not fit into the socket's buffer")


class _Generator:
    def __init__(self, plan: Plan) -> None:
        self.reports = 0
        self.idle_answers = 0
        self.connections = {
            connection.socket.fileno(): connection
            for connection in (Connection(plan, volunteer) for volunteer in plan.volunteers)
        }
        self.poll = select.epoll()
        # What each volunteer that has no call under way was answered last.
        self.parked: dict[int, Answer] = {}

    def prepare(self) -> None:
        """Let every volunteer tell what it is and take its first lease."""
        for number, connection in self.connections.items():
            connection.introduce(want=1)
            self.parked[number] = connection.answer()
            connection.socket.setblocking(False)
            self.poll.register(number, select.EPOLLIN)

    def run(self, seconds: float) -> list[float]:
        """Answer every answer with the next call for so long; return each call's seconds."""
        latencies = []
        end = time.perf_counter() + seconds
        self.go_on()
        while (now := time.perf_counter()) < end:
            for number, answer, answered_at in self.answers(end - now):
                connection = self.connections[number]
                latencies.append(answered_at - connection.sent_at)
                self.send(connection, answer)
        return latencies

    def burst(self, calls: int) -> Burst:
        """Send so many calls, as fast as they are answered; then wait for the answers to the last ones."""
        begun = time.perf_counter()
        self.go_on()
        sent, answered, seconds = len(self.connections), 0, 0.0
        while len(self.parked) < len(self.connections):
            for number, answer, answered_at in self.answers(_ANSWER_SECONDS):
                if sent < calls:
                    sent += 1
                    answered += 1
                    seconds = answered_at - begun
                    self.send(self.connections[number], answer)
                else:
                    self.parked[number] = answer
        return Burst(calls=answered, seconds=seconds)

    def go_on(self) -> None:
        """Let every volunteer without a call send its next one."""
        for number, answer in self.parked.items():
            self.send(self.connections[number], answer)
        self.parked.clear()

    def send(self, connection: Connection, answer: Answer) -> None:
        """Report the task that the answer brought and ask for the next."""
        if answer.leases:
            connection.report(answer.leases[0], want=1)
        else:
            self.idle_answers += 1
            connection.wait_for_work()

    def answers(self, seconds: float) -> Iterator[tuple[int, Answer, float]]:
        """Yield the answers that are there, after at most so long: whose, what, and when.

        Raises RuntimeError when the server refused a report.
        """
        for number, _event in self.poll.poll(seconds):
            answer = self.connections[number].receive()
            if answer is not None:
                now = time.perf_counter()
                self.count(answer)
                yield number, answer, now

    def count(self, answer: Answer) -> None:
        """Count the reports that the server confirmed. Raises RuntimeError when it refused one."""
        for confirmation in answer.confirmed:
            if not confirmation.accepted:
                raise RuntimeError(f"the server refused a report: {confirmation.message}")
            self.reports += 1

    def finish(self) -> None:
        """Wait for the answers to what was sent, so that their reports are counted too."""
        for number, connection in self.connections.items():
            if number not in self.parked:
                connection.socket.settimeout(_ANSWER_SECONDS)
                self.count(connection.answer())
            connection.socket.close()
        self.poll.close()


def generate(plan: Plan) -> Load:
    """Carry out a plan."""
    generator = _Generator(plan)
    generator.prepare()
    generator.run(plan.warm_up_seconds)
    before = {name: _processor_seconds(number) for name, number in plan.processes.items()}
    mine = time.process_time()
    begun = time.perf_counter()
    latencies = sorted(generator.run(plan.seconds))
    elapsed = time.perf_counter() - begun
    mine = time.process_time() - mine
    after = {name: _processor_seconds(number) for name, number in plan.processes.items()}
    generator.finish()
    return Load(
        calls=len(latencies),
        seconds=elapsed,
        p50_seconds=latencies[len(latencies) // 2],
        p99_seconds=latencies[len(latencies) * 99 // 100],
        worst_seconds=latencies[-1],
        reports=generator.reports,
        idle_answers=generator.idle_answers,
        processor_seconds={"generator": mine, **{name: _used(before[name], after[name]) for name in after}},
    )


def serve_bursts(plan: Plan, calls: int) -> None:
    """Send a burst for every line on standard input and tell of it on standard output."""
    generator = _Generator(plan)
    generator.prepare()
    for _line in sys.stdin:
        sys.stdout.write(msgspec.json.encode(generator.burst(calls)).decode() + "\n")
        sys.stdout.flush()
    if generator.idle_answers:
        raise RuntimeError(f"{generator.idle_answers} calls found no task")
    generator.finish()


class _ProcessorSeconds(Struct, frozen=True):
    living: dict[int, float]  # by process id: a process and all below it
    ended: float  # of children that were there once


def _processor_seconds(number: int) -> _ProcessorSeconds:
    """Return the processor time so far of a process and its children."""
    root = psutil.Process(number)
    times = {process.pid: process.cpu_times() for process in (root, *root.children(recursive=True))}
    return _ProcessorSeconds(
        living={pid: each.user + each.system for pid, each in times.items()},
        ended=sum(each.children_user + each.children_system for each in times.values()),
    )


def _used(before: _ProcessorSeconds, after: _ProcessorSeconds) -> float:
    """Return what was used between two looks, of processes that began or ended in between as well."""
    living = sum(seconds - before.living.get(pid, 0.0) for pid, seconds in after.living.items())
    gone = sum(seconds for pid, seconds in before.living.items() if pid not in after.living)
    return living + max(0.0, after.ended - before.ended - gone)


if __name__ == "__main__":
    wanted = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
    if wanted.burst is not None:
        serve_bursts(wanted, wanted.burst)
    else:
        sys.stdout.write(msgspec.json.encode(generate(wanted)).decode() + "\n")
