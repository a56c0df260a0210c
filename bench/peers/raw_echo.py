"""The floor: what a socket alone takes to carry so many bytes there and back."""

from __future__ import annotations

import socket
import sys
import threading


def receive(connection: socket.socket, room: memoryview) -> bool:
    """Fill the room; return False if the other side has hung up before."""
    while room:
        received = connection.recv_into(room)
        if not received:
            return False
        room = room[received:]
    return True


def main() -> None:
    """Answer each message with itself; a message's length goes before it, in 8 bytes."""
    where = sys.argv[1]
    if where.isdecimal():
        listening = socket.create_server(("127.0.0.1", int(where)))
    else:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(where)
        listening.listen()
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=_echo, args=[connection], daemon=True).start()


def _echo(connection: socket.socket) -> None:
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    length, buffer = memoryview(bytearray(8)), memoryview(b"")
    while receive(connection, length):
        size = int.from_bytes(length, "little")
        if len(buffer) != size:
            buffer = memoryview(bytearray(size))
        receive(connection, buffer)
        connection.sendall(buffer)


if __name__ == "__main__":
    main()
