"""What a reader needs to judge figures: the machine, its kernel, the versions of all that is measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shutil
import ssl
import subprocess
from pathlib import Path

from OpenSSL import SSL

from loadtests.measuring.processes import CORES

PACKAGES = ("gevent", "pyOpenSSL", "uvloop", "trio")
# What prints the version of a program, and the word before it.
PROGRAMS = {
    "redis": (["redis-server", "--version"], "v="),
    "go": (["go", "version"], "go version go"),
    "nim": (["nim", "--version"], "Nim Compiler Version "),
}


def machine_facts() -> dict[str, str]:
    """Date, processor, kernel and versions; what is not installed is left out."""
    cpu = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu,
        "cores": str(len(CORES)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts["OpenSSL of gnet"] = _version_of(SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode())
    facts["OpenSSL of ssl"] = _version_of(ssl.OPENSSL_VERSION)
    for name, (command, before) in PROGRAMS.items():
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True)
            facts[name] = (done.stdout.partition(before)[2].split() or ["?"])[0]
    return facts


def _version_of(text: str) -> str:
    return text.split()[1]


def facts_line(facts: dict[str, str]) -> str:
    """The same in one sentence."""
    text = f"{facts['date']}; {facts['cpu']}, {facts['cores']} cores, {facts['kernel']}; "
    text += f"Python {facts['python']}"
    names = {"redis": "redis-server", "go": "Go", "nim": "Nim"}
    text += "".join(f", {names.get(key, key)} {facts[key]}" for key in (*PACKAGES, *PROGRAMS) if key in facts)
    text += f", OpenSSL {facts['OpenSSL of gnet']} (Python's own: {facts['OpenSSL of ssl']})"
    if len(CORES) == 1:
        text += "; one core only: client and server share it, trust the ratios less"
    return text
