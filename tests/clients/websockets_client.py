"""Asks an echo server for what a client of the Python package `websockets` can ask for.

In: a URL, and what the server does with the offer of compression (`off`, `shared`, `dedicated`).
Out: status 0, or the assertion that failed. Run by `run`, which provides the package.
"""

import sys

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import connect

SECONDS = 20


def watch_compression(websocket, deflate):
    """Asserts what was negotiated; the returned list grows with every compressed echo."""
    compressed = []
    if deflate == "off":
        assert websocket.protocol.extensions == [], websocket.protocol.extensions
        return compressed
    [extension] = websocket.protocol.extensions
    assert isinstance(extension, PerMessageDeflate), extension
    alone = deflate == "shared"
    assert extension.local_no_context_takeover == alone, extension
    assert extension.remote_no_context_takeover == alone, extension
    decode = extension.decode

    def note(frame, **arguments):
        if frame.rsv1:
            compressed.append(len(frame.data))
        return decode(frame, **arguments)

    extension.decode = note
    return compressed


def main(url, deflate):
    """Sends messages of both kinds, every class of length, whole and in fragments."""
    with connect(url, open_timeout=SECONDS, close_timeout=SECONDS, max_size=None) as websocket:
        compressed = watch_compression(websocket, deflate)
        sent = 0
        for size in [0, 1, 125, 126, 65535, 65536, 1 << 20]:
            text = ("grüße 🦀 " * (size // 8 + 1))[: size // 4]
            binary = bytes(index * 31 % 256 for index in range(size))
            for message in [text, binary]:
                websocket.send(message)
                echo = websocket.recv(timeout=SECONDS)
                assert type(echo) is type(message) and echo == message, f"{size} bytes"
                sent += size

        for fragments in [["frag", "ments of 🦀", "", " one message"], ["long 🦀 " * 5000] * 3]:
            websocket.send(iter(fragments))
            assert websocket.recv(timeout=SECONDS) == "".join(fragments)

        if deflate == "off":
            assert not compressed, f"{len(compressed)} echoes are compressed"
        else:
            # The long ones of both kinds and the long fragments; short ones need not shrink.
            assert len(compressed) >= 7, f"{len(compressed)} echoes are compressed"
            assert sum(compressed) < sent // 10, f"{sum(compressed)} bytes for {sent}"

        assert websocket.ping(b"are you there?").wait(SECONDS), "no pong"
        websocket.close(3333, "done")
    assert (websocket.close_code, websocket.close_reason) == (3333, ""), websocket.close_reason


if __name__ == "__main__":
    main(*sys.argv[1:])
