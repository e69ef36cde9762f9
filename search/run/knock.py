"""Knocks at a port of Ray's: one gRPC call, written by hand as HTTP/2 frames (RFC 9113, 7541).

Ray's own client tries for two minutes, and prints what it tries, before it says that a port is no Ray's or wants a
token. A knock tells within its deadline, and prints nothing.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from enum import Enum
from pathlib import Path

HEALTH = "/grpc.health.v1.Health/Check"
"""Answered without a token by every server of Ray's: it says that it is there, and nothing else."""
CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""Answered by the GCS, which holds the cluster's state, to whoever has the token."""


class Answer(Enum):
    """What came back."""

    DONE = "done"
    """The call was carried out."""
    REFUSED = "refused"
    """The server wants a token, or another one."""
    UNKNOWN = "unknown"
    """A gRPC server that does not know the call, or fails in it."""
    FOREIGN = "foreign"
    """Something that does not speak gRPC."""
    SILENT = "silent"
    """It took the connection, and then said nothing before the deadline."""
    NOBODY = "nobody"
    """No connection: nothing listens there, or the host cannot be reached."""


def knock(host: str, port: int, path: str = HEALTH, token: str | None = None, seconds: float = 3.0) -> Answer:
    """Call a method with an empty request.

    Args:
        host: name or address.
        port: TCP port.
        path: ``/SERVICE/METHOD``.
        token: Ray's token; without it, the call carries none.
        seconds: deadline for the whole call.
    """
    end = time.monotonic() + seconds
    try:
        connection = socket.create_connection((host, port), timeout=seconds)
    except (OSError, ValueError, OverflowError):
        return Answer.NOBODY
    received = b""
    with connection:
        try:
            connection.sendall(_request(f"{host}:{port}", path, token))
            while (left := end - time.monotonic()) > 0:
                connection.settimeout(left)
                part = connection.recv(65536)
                received += part
                if received[3:4] not in (b"", b"\x04"):  # an HTTP/2 server's first frame is SETTINGS
                    return Answer.FOREIGN
                status = _status(received)
                if status is not None:
                    # 16 is UNAUTHENTICATED
                    return {0: Answer.DONE, 16: Answer.REFUSED}.get(status, Answer.UNKNOWN)
                if not part:
                    return Answer.FOREIGN
        except TimeoutError:
            pass
        except OSError:  # it hung up
            return Answer.FOREIGN
    return Answer.SILENT


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        ValueError: it has no port.
    """
    host, _, port = address.rpartition(":")
    if not host:
        raise ValueError(f"no port in {address}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def token() -> str | None:
    """The token that a process of Ray on this host would show; None where there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"].strip()
    path = token_file()
    return path.read_text().strip() or None if path.is_file() else None


def token_file() -> Path:
    """Where Ray reads the token from."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def encrypted() -> bool:
    """Whether Ray speaks TLS on this host, which a knock does not."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _status(received: bytes) -> int | None:
    """The number in ``grpc-status``, which Ray's servers send as plain text; None while it has not arrived."""
    _, name, rest = received.partition(b"grpc-status")
    if not name or not rest or len(rest) < 1 + rest[0]:
        return None
    digits = rest[1 : 1 + rest[0]]
    return int(digits) if digits.isdigit() else None


def _request(authority: str, path: str, token: str | None) -> bytes:
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    if token:
        fields["authorization"] = f"Bearer {token}"
    headers = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(4, 0, 0, b"")  # SETTINGS
        + _frame(1, 0x4, 1, headers)  # HEADERS, complete
        + _frame(0, 0x1, 1, bytes(5))  # DATA, the last: an empty message
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _text(value: str) -> bytes:
    """A string of HPACK's, not compressed: its length as an integer with a prefix of seven bits, and its bytes."""
    raw = value.encode()
    length = len(raw)
    if length < 127:
        return bytes([length]) + raw
    length -= 127
    prefix = [127]
    while length >= 128:
        prefix.append(length % 128 + 128)
        length //= 128
    return bytes([*prefix, length]) + raw
