"""Asks an echo server for what a client of the Python package `websockets` can ask for.

In: a URL. Out: status 0, or the assertion that failed. Run by `run`, which provides the package.
"""

import sys

from websockets.sync.client import connect

SECONDS = 20


def main(url):
    """Sends messages of both kinds, every class of length, whole and in fragments."""
    with connect(url, open_timeout=SECONDS, close_timeout=SECONDS, max_size=None) as websocket:
        for size in [0, 1, 125, 126, 65535, 65536, 1 << 20]:
            text = ("grüße 🦀 " * (size // 8 + 1))[: size // 4]
            binary = bytes(index * 31 % 256 for index in range(size))
            for message in [text, binary]:
                websocket.send(message)
                echo = websocket.recv(timeout=SECONDS)
                assert type(echo) is type(message) and echo == message, f"{size} bytes"

        fragments = ["frag", "ments of 🦀", "", " one message"]
        websocket.send(iter(fragments))
        assert websocket.recv(timeout=SECONDS) == "".join(fragments)

        assert websocket.ping(b"are you there?").wait(SECONDS), "no pong"
        websocket.close(3333, "done")
    assert (websocket.close_code, websocket.close_reason) == (3333, ""), websocket.close_reason


if __name__ == "__main__":
    main(sys.argv[1])
