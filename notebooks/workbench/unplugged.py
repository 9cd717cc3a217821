"""A TCP connection whose network goes down, and when its system sends again what is unconfirmed.

    unshare --user --map-root-user --net python unplugged.py 4

Prints a JSON list: the seconds since the one byte was sent, for as long as is asked. A program
of its own, because it takes down the loopback interface: that of a network namespace, in which
nobody else is. `breaking.retransmissions` runs it.
"""

import fcntl
import json
import socket
import struct
import sys
import time

FLAGS = 0x8914  # SIOCSIFFLAGS, netdevice(7)


def plug(is_up: bool) -> None:
    """Take the loopback interface up or down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, FLAGS, struct.pack("16sh14x", b"lo", is_up))


def sent_again(connection: socket.socket) -> int:
    """How often, as the system counts."""
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return struct.unpack("100xI", state)[0]


def main(seconds: float) -> None:
    plug(True)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        server, _ = listener.accept()
        client.send(b"1")
        server.recv(1)
        plug(False)
        client.send(b"2")
        begin, times = time.perf_counter(), []
        while (now := time.perf_counter() - begin) < seconds:
            if sent_again(client) > len(times):
                times.append(round(now, 3))
            time.sleep(0.005)
        print(json.dumps(times))


if __name__ == "__main__":
    main(float(sys.argv[1]))
