"""What systemd gets from a service that it has started with `Type=notify`: see sd_notify(3)."""

import asyncio
import os
import socket


async def keep_notifying() -> None:
    """Report that the service listens, and with a watchdog that its loop runs, at half of its interval.

    Without systemd, nothing is done.
    """
    _notify(b"READY=1")
    microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not microseconds or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        _notify(b"WATCHDOG=1")
        await asyncio.sleep(microseconds / 2e6)


def _notify(state: bytes) -> None:
    if place := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state, place.replace("@", "\0", 1))
