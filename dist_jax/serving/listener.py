"""The socket of the server."""

import socket

from dist_jax.errors import UserError


def bind(host: str, port: int) -> socket.socket:
    """Opens the socket. Port 0: a free one. Raises UserError if the address is in use or not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: {reason}; use another address") from error
    return listener
