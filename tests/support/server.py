"""Starts one of the example servers, watches its command-line contract, and stops it.

In: a command line. Out: the address it listens on, and a list of sentences for every promise that
it broke: exactly one line on stdout, still echoing when asked, 1001 and status 0 after SIGTERM.
Standard library only. Never decides whether a broken promise fails the run: the caller does.
"""

import base64
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import time

READY_LINE = re.compile(rb"listening on (wss?)://([^/\s]+)/\s*")
# The promise is 5 s; the rest is for machines that are busy elsewhere.
STOP_SECONDS = 15
# Nothing takes so long unless it hangs.
PATIENCE_SECONDS = 20


class ServerError(Exception):
    """The server did not start; the text says why."""


class Server:
    """A server process, ready to accept connections."""

    def __init__(self, command, log_path, ready_seconds=20, authority=None):
        """Starts `command` and waits for its ready line; stderr goes to `log_path`. Under TLS,
        `authority` is the file of the certificate that vouches for the server."""
        self.log_path = log_path
        self.authority_file = authority
        self.name = os.path.basename(command[0])
        with open(log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        line = self._read_line(ready_seconds)
        match = READY_LINE.fullmatch(line)
        if not match:
            self.kill()
            raise ServerError(
                f"{' '.join(command)}: expected `listening on ws://ADDR/` on stdout within"
                f" {ready_seconds} s, got {line!r}, exit status {self.process.returncode};"
                f" stderr: {self.log_tail()}"
            )
        self.authority = match.group(2).decode()
        host, port = self.authority.rsplit(":", 1)
        self.address = (host.strip("[]"), int(port))
        self.url = f"{match.group(1).decode()}://{self.authority}/"

    def _read_line(self, seconds):
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                break
            piece = os.read(self.process.stdout.fileno(), 4096)
            if not piece:
                self.process.wait(timeout=STOP_SECONDS)
                break
            line += piece
        return line

    def log_tail(self):
        """The last lines of what the server wrote on stderr."""
        with open(self.log_path, "rb") as log:
            return log.read()[-2000:].decode(errors="replace").strip() or "(empty)"

    def is_running(self):
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    def kill(self):
        """Ends the process at once; for clean-up only."""
        if self.is_running():
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def check_and_stop(self, echoes=True):
        """Ends the server by SIGTERM, after one more echo if it does that; the broken promises."""
        if not self.is_running():
            status = self.process.returncode
            self.kill()
            return [f"{self.name} died with status {status}; stderr: {self.log_tail()}"]
        problems = []
        connection = None
        try:
            if echoes:
                connection = EchoConnection(self.address, authority=self.authority_file)
                connection.expect_echo("still there?")
        except (OSError, ServerError) as error:
            problems.append(f"no echo after the run: {error}")

        self.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        try:
            if connection and not problems:
                code = connection.read_close()
                if code != 1001:
                    problems.append(f"SIGTERM closed an open connection with {code}, not 1001")
        except (OSError, ServerError) as error:
            problems.append(f"no Close frame after SIGTERM: {error}")
        finally:
            if connection:
                connection.socket.close()
        try:
            status = self.process.wait(timeout=STOP_SECONDS - (time.monotonic() - started))
        except (subprocess.TimeoutExpired, ValueError):
            problems.append(f"still running {STOP_SECONDS} s after SIGTERM")
            self.kill()
            return problems
        if status != 0:
            problems.append(f"status {status} after SIGTERM, not 0; stderr: {self.log_tail()}")
        rest = self.process.stdout.read()
        if rest:
            problems.append(f"more than the ready line on stdout: {rest[:200]!r}")
        self.process.stdout.close()
        return problems


class EchoConnection:
    """A minimal WebSocket client, enough to ask one question and to see a Close frame."""

    def __init__(self, address, timeout_seconds=PATIENCE_SECONDS, authority=None):
        self.socket = socket.create_connection(address, timeout=timeout_seconds)
        if authority:
            context = ssl.create_default_context(cafile=authority)
            self.socket = context.wrap_socket(self.socket, server_hostname=address[0])
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET / HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
            "\r\n".encode()
        )
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ServerError(f"handshake answered with {head.splitlines()[0]!r}")

    def _receive(self):
        piece = self.socket.recv(65536)
        if not piece:
            raise ServerError("the server ended the TCP connection")
        self.buffer += piece

    def _take(self, count):
        while len(self.buffer) < count:
            self._receive()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def read_frame(self):
        """Returns opcode and payload of the next frame shorter than 126 bytes."""
        first, second = self._take(2)
        if second > 125:
            raise ServerError(f"unexpected length byte {second:#04x}")
        return first & 0x0F, self._take(second)

    def send_frame(self, opcode, payload):
        """Sends one masked frame shorter than 126 bytes."""
        masking_key = os.urandom(4)
        masked = bytes(byte ^ masking_key[i % 4] for i, byte in enumerate(payload))
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload))
        self.socket.sendall(head + masking_key + masked)

    def expect_echo(self, text):
        """Sends `text` (shorter than 126 bytes) and raises unless the same text comes back."""
        payload = text.encode()
        self.send_frame(1, payload)
        frame = self.read_frame()
        if frame != (1, payload):
            raise ServerError(f"sent {text!r}, got {frame!r}")

    def read_close(self):
        """Answers the next Close frame and returns its code, None if that is empty."""
        while True:
            opcode, payload = self.read_frame()
            if opcode == 8:
                self.send_frame(8, payload[:2])
                return struct.unpack("!H", payload[:2])[0] if payload else None
