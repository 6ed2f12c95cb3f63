"""Makes a certificate authority and a server's certificate with openssl(1), for one run.

In: a folder. Out: the paths of ca.pem, server.pem and server.key in it. Nothing here is secret.
"""

import base64
import hashlib
import os
import subprocess

NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


def make(folder):
    """Writes the files; returns their paths, the authority's first."""
    ca, ca_key, server, key = (
        os.path.join(folder, name) for name in ("ca.pem", "ca.key", "server.pem", "server.key")
    )
    request = os.path.join(folder, "server.csr")
    extensions = os.path.join(folder, "server.ext")
    with open(extensions, "w") as file:
        file.write(f"{NAMES}\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-days", "2",
             "-subj", "/CN=authority of one test run",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    _openssl("req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    _openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
             "-out", server, "-days", "2", "-extfile", extensions)
    return ca, server, key


def key_hash(key):
    """SHA-256 of the public key of a private one, in base64, as Chromium wants it."""
    public = subprocess.run(
        ["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
    ).stdout
    return base64.b64encode(hashlib.sha256(public).digest()).decode()


def _openssl(*arguments):
    done = subprocess.run(
        ["openssl", *arguments], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )
    if done.returncode != 0:
        raise OSError(f"openssl {arguments[0]}: status {done.returncode}\n{done.stdout[-1000:]}")
