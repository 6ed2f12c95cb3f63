"""The Autobahn test suite: finds or fetches a Python 2.7, installs the suite, runs it.

In: a spec (the suite's own JSON format). Out: index.json and HTML reports in the spec's outdir.
Everything fetched lives in a cache folder outside the repository and is reused. Never judges a
result: that is the job of `run`.
"""

import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

# The suite is Python 2.7 only (under Python 3 it installs, and then fails to import). These are
# the newest releases of everything it needs that still run there, so nothing is resolved.
PINS = """
autobahntestsuite==25.10.1 autobahn==0.10.9 txaio==2.1.0 Twisted==19.10.0 zope.interface==4.6.0
incremental==16.10.1 constantly==15.1.0 Automat==22.10.0 attrs==21.4.0 hyperlink==21.0.0
idna==2.10 typing==3.10.0.0 PyHamcrest==1.10.1 six==1.16.0 Jinja2==2.11.3 MarkupSafe==1.1.1
pyOpenSSL==19.1.0 cryptography==3.3.2 cffi==1.15.1 pycparser==2.21 enum34==1.1.10
ipaddress==1.0.23 service-identity==18.1.0 pyasn1==0.5.1 pyasn1-modules==0.3.0 unittest2==1.1.0
traceback2==1.4.0 linecache2==1.0.0 Werkzeug==1.0.1 klein==17.10.0 setuptools==44.0.0
""".split()
# Masking and UTF-8 in C: the suite runs without it, only slower. Needs a C compiler.
SPEED_UPS = ["wsaccel==0.6.6"]
# The last pip for Python 2.7, used where the interpreter comes without one.
PIP_PINS = ["pip==20.3.4", "setuptools==44.0.0", "wheel==0.37.1"]

# Debian 11 is the last release with Python 2.7; its packages run on later ones when unpacked.
DEBIAN_RELEASE = "bullseye"
DEBIAN_PACKAGES = """
python2.7-minimal libpython2.7-minimal libpython2.7-stdlib libpython2.7 libpython2.7-dev
python2.7-dev libssl1.1 libffi7
""".split()

WSTEST = "from autobahntestsuite import wstest; wstest.run()"


class SuiteError(Exception):
    """The suite cannot be installed or did not run; the text says why."""


def run_quietly(command, **options):
    """Runs a command and raises with the end of its output when it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", **options,
    )
    if done.returncode != 0:
        raise SuiteError(
            f"{' '.join(command)}: status {done.returncode}\n{done.stdout[-3000:]}"
        )
    return done.stdout


def cache_folder():
    """Where the suite is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "wirelane-conformance")


class Suite:
    """An installed suite: interpreter and environment to start it with."""

    def __init__(self):
        """Installs the suite into the cache unless it is there already (about 20 s)."""
        cache = cache_folder()
        os.makedirs(cache, exist_ok=True)
        with open(os.path.join(cache, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.python, environment = find_python27(cache)
            recipe = " ".join(PINS + SPEED_UPS + [self.python])
            name = "suite-" + hashlib.sha256(recipe.encode()).hexdigest()[:12]
            folder = os.path.join(cache, name)
            if not os.path.isdir(folder):
                print(f"installing the Autobahn test suite into {folder}", flush=True)
                install(self.python, environment, cache, folder)
        self.environment = {**environment, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, mode, spec, folder, arguments=()):
        """Starts `wstest` in `folder`, which also receives its spec and its log."""
        spec_path = os.path.join(folder, "spec.json")
        with open(spec_path, "w") as file:
            json.dump(spec, file, indent=2)
        with open(os.path.join(folder, "wstest.log"), "wb") as log:
            return subprocess.Popen(
                [self.python, "-u", "-c", WSTEST, "-m", mode, "-s", spec_path, *arguments],
                cwd=folder, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )


def selected_cases(log_path):
    """The case ids that the suite chose for the spec, from its log."""
    with open(log_path, errors="replace") as log:
        match = re.search(r"^Cases = \[(.*)\]$", log.read(), re.MULTILINE)
    if not match:
        raise SuiteError(f"the suite did not say which cases it runs; see {log_path}")
    return re.findall(r"'([0-9.]+)'", match.group(1))


def find_python27(cache):
    """Returns the path of a working Python 2.7 and the environment to run it with."""
    wanted = os.environ.get("WIRELANE_PYTHON27", "")
    plain = {**os.environ}
    plain.pop("PYTHONHOME", None)
    if wanted == "debian":
        candidates = []
    elif wanted:
        candidates = [wanted]
    else:
        pyenv = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
        candidates = [shutil.which("python2.7")]
        candidates += sorted(glob.glob(os.path.join(pyenv, "versions/2.7*/bin/python")))
    for python in filter(None, candidates):
        # Run it: a pyenv shim is on PATH also when no 2.7 is selected, and then only complains.
        if works(python, plain):
            return python, plain
    if wanted not in ("", "debian"):
        raise SuiteError(f"WIRELANE_PYTHON27={wanted} is not a working Python 2.7")
    return debian_python27(cache, plain)


def works(python, environment):
    """Whether this is a Python 2.7 with the modules that the suite needs."""
    probe = "import sys, ssl, zlib, ctypes; sys.exit(sys.version_info[:2] != (2, 7))"
    try:
        done = subprocess.run(
            [python, "-c", probe], env=environment, stdin=subprocess.DEVNULL, capture_output=True
        )
    except OSError:
        return False
    return done.returncode == 0


def debian_python27(cache, plain):
    """Python 2.7 from Debian packages that are unpacked, not installed."""
    folder = os.path.join(cache, f"{DEBIAN_RELEASE}-python2.7")
    python = os.path.join(folder, "usr/bin/python2.7")
    if not os.path.exists(python):
        for tool in ("apt-get", "dpkg-deb"):
            if not shutil.which(tool):
                raise SuiteError(
                    "no working Python 2.7: put python2.7 on PATH, or install one with pyenv"
                    f" (the fallback, Debian packages, needs {tool})"
                )
        print(f"unpacking Python 2.7 of Debian {DEBIAN_RELEASE} into {folder}", flush=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            unpacked = os.path.join(work, "unpacked")
            for package in download_debian_packages(work):
                run_quietly(["dpkg-deb", "-x", package, unpacked])
            os.rename(unpacked, folder)
    libraries = glob.glob(os.path.join(folder, "usr/lib/*-linux-gnu*"))
    environment = {**plain, "LD_LIBRARY_PATH": ":".join(libraries)}
    include = glob.glob(os.path.join(folder, "usr/include/python2.7"))
    environment["CPATH"] = ":".join(include + [os.path.join(folder, "usr/include")])
    if not works(python, environment):
        raise SuiteError(f"{python} does not run here; remove {folder} or install python2.7")
    return python, environment


def download_debian_packages(work):
    """Fetches DEBIAN_PACKAGES by apt-get, from the mirror that this machine's apt uses.

    All of apt's state is redirected into `work`, so neither root nor the machine's own package
    lists are involved, and apt verifies the archive's signature as ever.
    """
    mirrors = run_quietly(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).split()
    mirrors = [uri for uri in dict.fromkeys(mirrors) if "security" not in uri]
    if not mirrors:
        raise SuiteError("apt has no mirror configured (or no package lists: apt-get update)")
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    signed_by = f" [signed-by={keyring}]" if os.path.exists(keyring) else ""
    sources = os.path.join(work, "sources.list")
    packages = os.path.join(work, "packages")
    os.mkdir(packages)
    for folder in ("state/lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(work, folder))
    options = []
    for name, value in {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State": os.path.join(work, "state"),
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": os.path.join(work, "cache"),
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }.items():
        options += ["-o", f"{name}={value}"]
    failure = None
    for mirror in mirrors:
        with open(sources, "w") as file:
            file.write(f"deb{signed_by} {mirror} {DEBIAN_RELEASE} main\n")
        try:
            run_quietly(["apt-get", "-q", *options, "update"])
            run_quietly(["apt-get", "-q", *options, "download", *DEBIAN_PACKAGES], cwd=packages)
        except SuiteError as error:
            failure = error
            continue
        return sorted(glob.glob(os.path.join(packages, "*.deb")))
    raise failure


def install(python, environment, cache, folder):
    """Installs the pinned packages; the folder appears only when it is complete."""
    with tempfile.TemporaryDirectory(dir=cache) as work:
        environment = {**environment, **pip_environment(python, environment, work)}
        site = os.path.join(work, "site")
        pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
        run_quietly(pip + PINS, env=environment)
        # zope.interface is a namespace package without the .pth file that --target leaves out.
        open(os.path.join(site, "zope/__init__.py"), "w").close()
        try:
            run_quietly(pip + SPEED_UPS, env=environment)
        except SuiteError:
            print("no C speed-ups for the suite (no compiler?): it will be slower", flush=True)
        os.rename(site, folder)


def pip_environment(python, environment, work):
    """Returns what must be in the environment for `python -m pip` to work."""
    probe = [python, "-m", "pip", "--version"]
    if subprocess.run(probe, env=environment, capture_output=True).returncode == 0:
        return {}
    modern = [sys.executable, "-m", "pip"]
    if subprocess.run([*modern, "--version"], capture_output=True).returncode != 0:
        raise SuiteError(f"{sys.executable} has no pip (Debian: apt-get install python3-pip)")
    wheels = os.path.join(work, "wheels")
    run_quietly([
        *modern, "download", "--quiet", "--python-version", "2.7", "--only-binary", ":all:",
        "--no-deps", "--dest", wheels, *PIP_PINS,
    ])
    unzipped = os.path.join(work, "pip")
    for wheel in glob.glob(os.path.join(wheels, "*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unzipped)
    return {"PYTHONPATH": unzipped}
