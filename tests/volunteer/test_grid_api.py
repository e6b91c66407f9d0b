"""A volunteer's calls, against the real server over real mutual TLS."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from xwgrid_server import accounts, authority
from xwgrid_volunteer.cache import BlobCache
from xwgrid_volunteer.enrolment import Identity
from xwgrid_volunteer.grid_api import GridApi, Patience
from xwgrid_volunteer.proxy import proxy_for

from tests.grid import Grid
from tests.server.certificates import new_key, signing_request
from tests.volunteer.connect_proxy import ConnectProxy
from tests.volunteer.grid_work import cancel, fails, first_call, join, submit
from xwgrid.errors import NotFound, TooLarge, Unauthenticated, Unavailable, WrongBytes
from xwgrid.model import HostId, ReplicaId, ResultFile
from xwgrid.wire import Lease, WorkRequest


class GridApiCase(TestCase):
    """One enrolled host of a real server, and a client of it."""

    timeout = 60
    grid: Grid
    folder: Path

    @pytest.fixture(autouse=True)
    def _places(self, grid: Grid, tmp_path: Path) -> None:
        self.grid, self.folder = grid, tmp_path

    def setUp(self) -> None:
        """Enrol."""
        self.identity = join(self.grid, self.folder / "state")

    def api(self, identity: Identity | None = None, proxy: str = "", **patience: float) -> GridApi:
        """Return a client that is closed at the end."""
        who = identity or self.identity
        route = proxy_for(who.enrolment.volunteer_url, proxy, {})
        made = GridApi(reactor, who, route, Patience(**patience))
        self.addCleanup(made.close)
        return made

    async def lease(self, api: GridApi, **job: Any) -> Lease:
        """Take a lease of a new job."""
        view = submit(self.grid, **job)
        self.addCleanup(cancel, self.grid, view)
        answer = await api.work(first_call(want=1))
        assert len(answer.leases) == 1, answer.reason
        return answer.leases[0]

    def result(self, data: bytes) -> tuple[ResultFile, Path]:
        """Return a file to be uploaded."""
        path = self.folder / "frame.png"
        path.write_bytes(data)
        return ResultFile(name="frame.png", sha256=hashlib.sha256(data).hexdigest(), size=len(data)), path


class Calls(GridApiCase):
    """The work call."""

    async def test_work_is_taken_over_one_connection(self) -> None:
        """Calls that follow each other use the same connection, through the proxy's tunnel too."""
        with ConnectProxy() as proxy:
            api = self.api(proxy=proxy.url)
            lease = await self.lease(api)
            assert lease.arguments
            for _ in range(3):
                await api.work(WorkRequest(call=int(time.time() * 1_000) + 1))
            assert proxy.targets == [self.identity.enrolment.volunteer_url.removeprefix("https://")]
            await api.close()

    async def test_a_held_call_can_be_hung_up(self) -> None:
        """Cancelling is not a failure of the server."""
        held = Deferred.fromCoroutine(
            self.api().work(WorkRequest(call=int(time.time() * 1_000), want=1, wait_seconds=50.0))
        )
        await deferLater(reactor, 0.2)
        assert not held.called
        held.cancel()
        try:
            await held
        except CancelledError:
            return
        raise AssertionError("was answered")

    async def test_another_grids_server_is_not_talked_to(self) -> None:
        """Its certificate is of another CA: nothing is sent, and the sentence says so."""
        other = authority.new_authority(time.time())
        stranger = replace(self.identity, ca_pem=other.pem.encode())
        error = await fails(self.api(stranger).work(first_call(1)), Unavailable)
        assert "not one of the grid" in error.message

    async def test_a_foreign_certificate_is_refused(self) -> None:
        """A host of another grid is told that its certificate is not accepted."""
        other, key = authority.new_authority(time.time()), new_key()
        request = authority.read_request(signing_request(key))
        certificate = other.issue_host(request, HostId(1), time.time())
        foreign = replace(
            self.identity,
            certificate_pem=authority.pem_text(certificate).encode(),
            key_pem=authority._key_pem(key),
        )
        error = await fails(self.api(foreign).work(first_call(1)), Unauthenticated)
        assert "does not accept this volunteer's certificate" in error.message
        assert "xwgrid-volunteer enrol --again" in error.message

    async def test_a_revoked_certificate_is_refused(self) -> None:
        """Also on a connection that was there before."""
        api = self.api()
        await api.work(first_call(0))
        accounts.revoke_certificates(self.grid.engine, self.identity.enrolment.host, time.time())
        while True:
            try:
                await api.work(first_call(0))
            except Unauthenticated:
                break
            await deferLater(reactor, 0.1)  # the server remembers an admission for a moment

    async def test_a_server_that_is_gone(self) -> None:
        """Nobody listens there: said at once, and with the address."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"https://127.0.0.1:{free.getsockname()[1]}"
        gone = replace(self.identity, enrolment=replace(self.identity.enrolment, volunteer_url=url))
        assert url in (await fails(self.api(gone).work(first_call(1)), Unavailable)).message

    async def test_a_server_that_is_silent(self) -> None:
        """Something listens and never answers: given up after the time set."""
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"https://127.0.0.1:{mute.getsockname()[1]}"
            silent = replace(self.identity, enrolment=replace(self.identity.enrolment, volunteer_url=url))
            error = await fails(self.api(silent, silence=0.2).work(first_call(1)), Unavailable)
            assert "for a long time" in error.message

    async def test_a_proxy_that_refuses(self) -> None:
        """Its own words are passed on."""
        with ConnectProxy(refusal="403 Not on my watch") as proxy:
            error = await fails(self.api(proxy=proxy.url).work(first_call(1)), Unavailable)
            assert "403 Not on my watch" in error.message


class Transfers(GridApiCase):
    """Blobs down, results up."""

    async def test_a_download_goes_on_after_every_break(self) -> None:
        """Each break costs what was on the way, not what had arrived; the bytes are right."""
        data = os.urandom(3_000_000)
        (self.folder / "input").write_bytes(data)
        await self.lease(self.api(), inputs={"input": self.folder / "input"})
        digest = hashlib.sha256(data).hexdigest()
        cache = BlobCache(self.folder / "cache", 1 << 30)
        with ConnectProxy() as proxy:
            proxy.cuts = [1_000_000, 700_000, 900_000]
            incoming = cache.incoming(digest, len(data), limit=len(data))
            api = self.api(proxy=proxy.url)
            await api.fetch_blob(digest, incoming)
            assert len(proxy.targets) == 4
            await api.close()
        assert cache.enter(incoming).read_bytes() == data

    async def test_a_download_that_gets_nowhere_ends(self) -> None:
        """What has arrived is kept for the next time."""
        data = os.urandom(2_000_000)
        (self.folder / "input").write_bytes(data)
        await self.lease(self.api(), inputs={"input": self.folder / "input"})
        cache = BlobCache(self.folder / "cache", 1 << 30)
        with ConnectProxy() as proxy:
            proxy.cuts = [1_000_000] + [100] * 10
            incoming = cache.incoming(hashlib.sha256(data).hexdigest(), len(data), limit=len(data))
            api = self.api(proxy=proxy.url)
            await fails(api.fetch_blob(incoming.digest, incoming), Unavailable)
            await api.close()
        assert incoming.offset > 500_000
        incoming.close()

    async def test_a_blob_of_nobodys_lease_is_not_given(self) -> None:
        """A volunteer reads what its leases name, and nothing else."""
        incoming = BlobCache(self.folder / "cache", 1 << 30).incoming("a" * 64, 5, limit=5)
        await fails(self.api().fetch_blob("a" * 64, incoming), NotFound)
        incoming.close()

    async def test_an_upload_goes_on_after_every_break(self) -> None:
        """The server names what it has, and the rest follows; a second upload of the same is no work."""
        lease = await self.lease(self.api())
        file, path = self.result(os.urandom(3_000_000))
        with ConnectProxy() as proxy:
            proxy.upward_cuts = [1_200_000, 800_000]
            api = self.api(proxy=proxy.url)
            await api.upload(lease.replica, file, path)
            assert len(proxy.targets) >= 3
            await api.upload(lease.replica, file, path)
            await api.close()

    async def test_an_upload_that_is_not_what_it_says(self) -> None:
        """A file that changed on the disk is refused by its hash."""
        lease = await self.lease(self.api())
        file, path = self.result(b"a picture")
        path.write_bytes(b"tampered!")
        await fails(self.api().upload(lease.replica, file, path), WrongBytes)

    async def test_an_upload_beyond_the_limit(self) -> None:
        """The server's limit on a result comes back as what it is."""
        lease = await self.lease(self.api())
        file, path = self.result(b"")
        with path.open("wb") as big:
            big.truncate((1 << 30) + 1)
        await fails(self.api().upload(lease.replica, replace(file, size=(1 << 30) + 1), path), TooLarge)

    async def test_an_upload_for_no_lease(self) -> None:
        """A replica that never was is refused."""
        file, path = self.result(b"a picture")
        await fails(self.api().upload(ReplicaId(987_654), file, path), NotFound)
