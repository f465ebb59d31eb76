#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Serves NBD the way nobody should, to see what a client makes of it.

hostile_server.py PORT BEHAVIOUR
"""

import itertools
import socket
import struct
import sys
import threading
import time

EVIL = b"\x1b]0;owned\x07\x1b[31m\r\n\x9b31m\xc2\x9b"
ERROR = 1 << 31


def greeting(flags=3):
    return b"NBDMAGICIHAVEOPT" + struct.pack(">H", flags)


def header(option, kind, length):
    return struct.pack(">QIII", 0x3E889045565A9, option, kind, length)


def reply(option, kind, data=b""):
    return header(option, kind, len(data)) + data


def entry(name, description=b""):
    return struct.pack(">I", len(name)) + name + description


def info(kind, data):
    return struct.pack(">H", kind) + data


def export(size):
    return info(0, struct.pack(">QH", size, 1))


def receive(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def options(connection):
    """Greets, then yields the number of each option that arrives."""
    connection.sendall(greeting())
    receive(connection, 4)
    while True:
        _, option, size = struct.unpack(">QII", receive(connection, 16))
        receive(connection, size)
        yield option


def answer(connection, pieces):
    """Answers each option with the PIECES(option)."""
    for option in options(connection):
        for piece in pieces(option):
            connection.sendall(piece)


def items(option, *data):
    return b"".join(reply(option, 3, item) for item in data)


def drip(connection):
    whole = greeting() + items(6, export(4096), info(2, b"x" * 4000)) + reply(6, 1)
    for byte in whole:
        connection.sendall(bytes([byte]))
        time.sleep(1)


def wait(connection):
    while connection.recv(4096):
        pass


BEHAVIOURS = {
    "mute": wait,
    "drip": drip,
    "hang-up": lambda c: None,
    "ssh": lambda c: (c.sendall(b"SSH-2.0-" + EVIL), wait(c)),
    "escape": lambda c: (c.sendall(EVIL), wait(c)),
    "mute-after-greeting": lambda c: (c.sendall(greeting()), wait(c)),
    "hang-up-after-greeting": lambda c: c.sendall(greeting()),
    "endless-list": lambda c: answer(c, lambda o: itertools.repeat(reply(o, 2, entry(b"n")))),
    "endless-long-list": lambda c: answer(
        c, lambda o: itertools.repeat(reply(o, 2, entry(b"n" * 4096, b"d" * 4096)))
    ),
    "endless-info": lambda c: answer(c, lambda o: itertools.repeat(items(o, export(4096)))),
    "endless-error": lambda c: answer(
        c,
        lambda o: itertools.chain(
            [header(o, ERROR + 6, 0xFFFFFFFF)], itertools.repeat(b"e" * 65536)
        ),
    ),
    "long-error": lambda c: answer(c, lambda o: [reply(o, ERROR + 6, EVIL * 2000)]),
    "evil-error": lambda c: answer(c, lambda o: [reply(o, ERROR + 2, EVIL)]),
    "evil-name": lambda c: answer(
        c,
        lambda o: [
            (
                reply(o, 2, entry(EVIL, EVIL))
                if o == 3
                else items(o, export(4096), info(1, EVIL), info(2, EVIL))
            ),
            reply(o, 1),
        ],
    ),
    "overlong-name": lambda c: answer(
        c, lambda o: [reply(o, 2, struct.pack(">I", 0xFFFFFFFC) + b"name")]
    ),
    "no-size": lambda c: answer(c, lambda o: [reply(o, 1)]),
    "huge": lambda c: answer(c, lambda o: [items(o, export(1 << 63)), reply(o, 1)]),
    "wrong-option": lambda c: answer(c, lambda o: [reply(o + 1, 1)]),
    "wrong-magic": lambda c: answer(c, lambda o: [b"x" * 20]),
}


def serve(connection, behaviour):
    with connection:
        try:
            BEHAVIOURS[behaviour](connection)
        except (EOFError, OSError):
            pass


def main():
    port, behaviour = int(sys.argv[1]), sys.argv[2]
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, behaviour), daemon=True).start()


main()
