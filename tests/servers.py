"""A private redis-server on a free port, and a network that can be cut."""

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import redis

from tests.certificates import Certificates
from tests.patience import PATIENCE

_PORTS = (10_000, 32_000)
_DRAW = random.SystemRandom()  # Hypothesis seeds the other one, so parallel workers would draw the same ports


class Server:
    """A server process on a free port. It runs in a `with` block, and may be killed and started within it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def command(self) -> Sequence[str]:
        """Its command line."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it is ready."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        if self.process is None:
            self.process = subprocess.Popen(
                self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        end = time.monotonic() + PATIENCE
        while not self.answers():
            assert self.process.poll() is None, f"the server ended at once: {self.command()}"
            assert time.monotonic() < end, f"the server does not answer: {self.command()}"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it as an operator would: what it has is synced first."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(subprocess.Popen.kill)

    def restart(self) -> None:
        """Stop and start, on the same port, with the same data."""
        self.stop()
        self.start()

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self.process is not None:
            how(self.process)
            self.process.wait(PATIENCE)
            self.process = None


class RedisServer(Server):
    """A redis-server with its data in `folder`; it ends with the `with` block.

    `options` are added to its command line. With `certificates` it speaks TLS only and requires a certificate
    of each client; `password` is that of its default user.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        appendonly: bool = False,
        password: str | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.options, self.appendonly = folder, options, appendonly
        self.password, self.certificates = password, certificates

    @property
    def url(self) -> str:
        """Without a password."""
        return f"{'rediss' if self.certificates else 'redis'}://localhost:{self.port}/0"

    def client(self) -> redis.Redis:
        """A plain client, for a test's own commands."""
        secure: dict[str, Any] = {}
        if pems := self.certificates:
            secure = {"ssl_ca_certs": pems.ca, "ssl_certfile": pems.client, "ssl_keyfile": pems.client_key}
        return redis.Redis.from_url(self.url, password=self.password, protocol=2, **secure)

    def answers(self) -> bool:
        """Whether it is ready."""
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def command(self) -> Sequence[str]:
        """Its command line."""
        words = ["redis-server", "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        words += ["--appendonly", "yes" if self.appendonly else "no", *self.options]
        if self.password:
            words += ["--requirepass", self.password]
        if pems := self.certificates:
            files = [
                ("--tls-ca-cert-file", pems.ca),
                ("--tls-cert-file", pems.server),
                ("--tls-key-file", pems.server_key),
            ]
            return [
                *words,
                "--port",
                "0",
                "--tls-port",
                str(self.port),
                *(str(word) for pair in files for word in pair),
            ]
        return [*words, "--port", str(self.port)]


class Network:
    """A network between clients and a port of this machine. `cut` drops all packets and closes no
    connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "Network":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def cut(self) -> None:
        """From now on drop everything, on new connections too."""
        self._cut.set()

    def heal(self) -> None:
        """From now on forward everything again; what was sent meanwhile is lost."""
        self._cut.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while octets := source.recv(1 << 16):
                if not self._cut.is_set():
                    target.sendall(octets)
            target.close()


def free_port() -> int:
    """A port of the loopback that nobody listens on.

    It is drawn from below the range of outgoing connections, so none of these can take it before the server
    starts. It is drawn at random, because tests run in parallel.
    """
    while True:
        port = _DRAW.randrange(*_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
