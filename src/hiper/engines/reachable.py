"""Whether a Ray cluster answers at an address, asked before Ray itself, which goes on asking for ten minutes."""

from __future__ import annotations

import os
import socket
import threading
from urllib.parse import urlsplit

from hiper.errors import OptionError

_SECONDS = 5.0
"""For a connection, and for its first answer."""
_SECONDS_IN_ALL = 20.0
"""Also for a resolver of names that does not answer."""
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What gRPC, by which Ray is reached, begins with: the preface of HTTP/2 and empty settings (RFC 9113, section 3.4)."""
_SETTINGS = 4
"""The type of the frame that the other side begins with."""


def check_reachable(address: str) -> None:
    """Check, within half a minute, that there can be a Ray behind an address.

    Args:
        address: HOST:PORT, ray://HOST:PORT, or auto, for which $RAY_ADDRESS counts where it is set.

    Raises:
        OptionError: There is none.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)
    if address in ("auto", "local"):  # a cluster of this machine, which Ray finds, or does not, by itself
        return
    host, port = _parsed(address)
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(_objection(host, port)), daemon=True)
    asking.start()
    asking.join(_SECONDS_IN_ALL)
    reason = found[0] if found else "no answer"
    if reason:
        raise OptionError(
            f"no Ray answers at {address!r} ({reason}); give the address that ray start --head printed, and see that"
            " the head runs and can be reached from here"
        )


def _parsed(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise OptionError(f"the address is {address!r}; allowed are HOST:PORT, ray://HOST:PORT and auto")
    return host, port


def _objection(host: str, port: int) -> str:
    """Return why there can be no Ray, "" where there can. With TLS only the connection can be tried."""
    try:
        with socket.create_connection((host, port), timeout=_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""
            connection.sendall(_GREETING)
            answer = connection.recv(4)
    except TimeoutError:
        return f"no answer in {_SECONDS:g} s"
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeError:
        return "no name of a computer"
    return "" if len(answer) == 4 and answer[3] == _SETTINGS else "something else listens there"
