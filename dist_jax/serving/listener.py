"""The socket of the server."""

import contextlib
import socket

from dist_jax.errors import UserError


def bind(host: str, port: int) -> socket.socket:
    """Opens the socket. Port 0: a free one. Raises UserError if the address is in use or not this machine's."""
    if not 0 <= port <= 65_535:  # getaddrinfo takes it modulo 65,536
        raise UserError(f"--port {port}: must be between 0 and 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            stack.pop_all()  # without an error, it stays open
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}; use another address") from error
    return listener
