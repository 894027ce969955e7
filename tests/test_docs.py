"""The documents are true: their Python compiles and runs, and what they name exists as they name it.

`<!-- run -->` on the line before a Python block marks a whole program: it is run, with warnings as
errors, and must exit 0. Blocks without it are fragments, which only compile.

The programs of `docs/tls.md` and `README.md` find in their folder the files that the shell commands of
`docs/tls.md` make.

In `docs/nim.md` the tables that begin `| Nim | gnet |` give each Nim name its place. What stands in
backticks in their second column is `gnet.name`, `Socket.name`, a builtin or a name of `ipaddress`,
with its signature if it has parentheses.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import fnmatch
import inspect
import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from OpenSSL import SSL

import gnet
from gnet.serving.inspection import ConnectionInfo
from gnet.serving.statistics import COUNTERS, GAUGES
from tests.api_signatures import FOR_OTHER_MODULES
from tests.conftest import require_program
from tests.tls import test_trust

pytestmark = pytest.mark.plain_only  # the programs run in processes of their own

ROOT = Path(__file__).resolve().parent.parent
NIM = ROOT / "docs" / "nim.md"
TLS = ROOT / "docs" / "tls.md"
SERVING = ROOT / "docs" / "serving.md"
SCALING = ROOT / "docs" / "scaling.md"
COMPILED = ROOT / "docs" / "compiled.md"
README = ROOT / "README.md"
SECURITY = ROOT / "SECURITY.md"
DOCUMENTS = [README, NIM, TLS, SERVING, SCALING, COMPILED]
RUN_TIMEOUT_SECONDS = 30

# What Nim's `net` exports and gnet has, as Nim spells it.
NIM_NAMES = """
    Socket SocketImpl SOBool ReadLineResult TimeoutError SocketFlag IpAddressFamily IpAddress
    OptAcceptConn OptBroadcast OptDebug OptDontRoute OptKeepAlive OptOOBInline OptReuseAddr OptReusePort
    OptNoDelay BufferSize MaxLineLength ReadFullLine ReadPartialLine ReadDisconnected ReadNone
    Peek SafeDisconn IPv4 IPv6 TaintedString
    isDisconnectionError toOSFlags newSocket parseIpAddress isIpAddress toSockAddr fromSockAddr
    getSocketError socketError listen bindAddr acceptAddr accept close toCInt getSockOpt setSockOpt
    getLocalAddr getPeerAddr connectUnix bindUnix hasDataBuffered recv readLine recvLine recvFrom skip
    send &= trySend sendTo isSsl getFd IPv4_any IPv4_loopback IPv4_broadcast IPv6_any IPv6_loopback
    dial connect getPrimaryIPAddr == $
    Port Domain AF_UNSPEC AF_UNIX AF_INET AF_INET6 SockType SOCK_STREAM SOCK_DGRAM SOCK_RAW SOCK_SEQPACKET
    Protocol IPPROTO_TCP IPPROTO_UDP IPPROTO_IP IPPROTO_IPV6 IPPROTO_RAW IPPROTO_ICMP IPPROTO_ICMPV6
    Certificate SslError SslCVerifyMode CVerifyNone CVerifyPeer CVerifyPeerUseEnvVars
    SslProtVersion protSSLv2 protSSLv3 protTLSv1 protSSLv23 SslContext SslAcceptResult AcceptNoClient
    AcceptNoHandshake AcceptSuccess SslHandshakeType handshakeAsClient handshakeAsServer
    SslClientGetPskFunc SslServerGetPskFunc raiseSSLError getExtraData setExtraData
    newContext destroyContext pskIdentityHint= clientGetPskFunc
    clientGetPskFunc= serverGetPskFunc serverGetPskFunc= getPskIdentity wrapSocket wrapConnectedSocket
    getPeerCertificates sessionIdContext= gotHandshake sslHandle CiphersIntermediate
""".split()


class Block(NamedTuple):
    """A Python code block of a document; `runs` if it is marked as a whole program."""

    document: str
    line: int
    code: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


class Row(NamedTuple):
    """A row of a `| Nim | gnet |` table."""

    line: int
    nim: str
    gnet: str


def python_blocks(path: Path) -> list[Block]:
    blocks, before = [], ""
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    for number, text in lines:
        if text.startswith("```"):
            inside = []
            for _, inner in lines:
                if inner.startswith("```"):
                    break
                inside.append(inner)
            else:
                raise ValueError(f"{path.name}:{number}: a code block without an end")
            if text.strip() == "```python":
                code = "\n".join(inside) + "\n"
                blocks.append(Block(path.name, number, code, before.strip() == "<!-- run -->"))
        before = text
    return blocks


def table_rows(path: Path, *head: str) -> list[tuple[int, list[str]]]:
    """Give the rows of the tables of three columns that begin with this head, each with its line."""
    rows, in_table = [], False
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", text.strip())[1:-1]]
        if tuple(cells[: len(head)]) == head and len(cells) == 3:
            in_table = True
        elif not cells:
            in_table = False
        elif in_table and set(cells[0]) != {"-"}:
            rows.append((number, cells))
    return rows


def nim_rows() -> list[Row]:
    return [Row(number, cells[0], cells[1]) for number, cells in table_rows(NIM, "Nim", "gnet")]


def spans(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def look_up(name: str) -> Any:
    """Find what a dotted name in the gnet column stands for.

    Raises:
        LookupError: there is no such thing.
    """
    first, *rest = name.split(".")
    roots = {"gnet": gnet, "Socket": gnet.Socket, "ipaddress": ipaddress}
    found: Any = roots[first] if first in roots else vars(builtins)[first]
    for part in rest:
        if found is gnet and part == "locust":
            return None  # importing it patches the process: tests/test_locust_examples.py looks at it
        if not hasattr(found, part):
            raise LookupError(f"{name}: {found!r} has no {part!r}")
        found = getattr(found, part)
    return found


def check_signature(span: str) -> None:
    """Compare `name(a, b=1)` with the real parameters: names, order, kinds and defaults."""
    name, _, rest = span.partition("(")
    function = ast.parse(f"def f({rest}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    written, found = function.args, look_up(name)
    parameters = list(inspect.signature(found).parameters.values())
    if inspect.isfunction(found) and parameters and parameters[0].name == "self":
        del parameters[0]
    real = [(p.name, p.kind is p.KEYWORD_ONLY) for p in parameters]
    assert real == [(a.arg, False) for a in written.args] + [(a.arg, True) for a in written.kwonlyargs]
    defaults = [p.default for p in parameters if p.default is not p.empty]
    scope = {**vars(ipaddress), **vars(gnet), **gnet.SocketFlag.__members__}
    texts = [ast.unparse(d) for d in [*written.defaults, *written.kw_defaults] if d is not None]
    assert defaults == [eval(text, scope) for text in texts]


def every_block() -> list[Block]:
    # A document that is missing fails in its own test below instead of stopping them all.
    return [block for path in DOCUMENTS if path.exists() for block in python_blocks(path)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the first shell commands of docs/tls.md make."""
    folder = tmp_path_factory.mktemp("certificates")
    commands = re.search(r"^```sh\n(.*?)^```", TLS.read_text(encoding="utf-8"), re.M | re.S)
    assert commands is not None
    require_program("openssl")
    done = subprocess.run(["sh", "-euc", commands[1]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def run_program(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    program = folder / "program.py"
    # Line numbers in a traceback are those of the document.
    program.write_text("\n" * block.line + block.code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_SECONDS,
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_document_has_a_python_program_that_is_run(path: Path) -> None:
    assert any(block.runs for block in python_blocks(path))


@pytest.mark.parametrize("block", every_block(), ids=str)
def test_every_python_block_compiles(block: Block) -> None:
    compile("\n" * block.line + block.code, block.document, "exec")


@pytest.mark.parametrize("block", [block for block in every_block() if block.runs], ids=str)
def test_every_program_runs_to_its_end(block: Block, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("certificates") if ".pem" in block.code else tmp_path
    done = run_program(block, folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_echo_pair_prints_the_answer(tmp_path: Path) -> None:
    first = next(block for block in python_blocks(NIM) if block.runs)
    assert run_program(first, tmp_path).stdout == "b'hello'\n"


@pytest.mark.parametrize("row", nim_rows(), ids=lambda row: f"{row.line}-{row.nim[:30]}")
def test_every_name_in_the_gnet_column_exists(row: Row) -> None:
    assert spans(row.gnet), "a row without a gnet name"
    for span in spans(row.gnet):
        if span == "socket &= data":
            look_up("Socket.__iand__")
        elif "(" in span:
            check_signature(span)
        else:
            look_up(span)


@pytest.mark.parametrize(("path", "least"), [(NIM, 100), (TLS, 7), (README, 3), (SERVING, 15)])
def test_names_in_the_running_text_exist_too(path: Path, least: int) -> None:
    # Outside the code blocks, whatever is written with its module or class.
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
    names = [m[0] for span in spans(text) for m in re.finditer(r"\b(?:gnet|Socket)(?:\.\w+)+", span)]
    assert len(names) >= least
    for name in names:
        look_up(name)


def codes() -> dict[int, str]:
    """The codes of refused certificates in docs/tls.md and their texts."""
    rows = table_rows(TLS, "code", "message")
    return {int(code): message.strip("`") for _, (code, message, _meaning) in rows}


def test_the_codes_of_refused_certificates_are_those_of_openssl() -> None:
    assert len(codes()) == len(table_rows(TLS, "code", "message"))
    texts = {code: SSL._ffi.string(SSL._lib.X509_verify_cert_error_string(code)).decode() for code in codes()}
    assert codes() == texts


def test_every_code_that_a_certificate_is_refused_with_is_in_the_document() -> None:
    refusals = [value for value in vars(test_trust).values() if isinstance(value, test_trust.Refusal)]
    assert len(refusals) > 10
    assert {refusal.code: refusal.message for refusal in refusals} == codes()


@pytest.mark.parametrize("name", NIM_NAMES)
def test_every_nim_name_has_its_row(name: str) -> None:
    # A name of letters stands for itself only; an operator may touch its operands.
    named = re.compile(rf"(?<![\w.]){name}(?!\w)" if name[0].isalpha() else re.escape(name))
    assert any(named.search(span) for row in nim_rows() for span in spans(row.nim))


def test_everything_public_is_in_the_document() -> None:
    public = {f"gnet.{name}" for name in gnet.__all__ if not name.startswith("__")}
    public |= {f"Socket.{name}" for name in dir(gnet.Socket) if not name.startswith("_")}
    public |= {f"gnet.SslContext.{name}" for name in dir(gnet.SslContext) if not name.startswith("_")}
    public -= FOR_OTHER_MODULES | {f"gnet.{name}" for name in FOR_OTHER_MODULES}
    text = NIM.read_text(encoding="utf-8")
    assert [name for name in sorted(public) if not re.search(rf"`{re.escape(name)}\b", text)] == []


# serving.md


def serving_defaults() -> dict[str, str]:
    """Give the limits and deadlines of docs/serving.md, each with its default as the document writes it."""
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+?) \|", SERVING.read_text(encoding="utf-8"), re.M)
    parameters = inspect.signature(gnet.Server).parameters
    return {name: default for name, default in reversed(rows) if name in parameters}  # the first row counts


def test_every_limit_and_deadline_is_in_the_document_with_its_default() -> None:
    parameters = inspect.signature(gnet.Server).parameters
    written = serving_defaults()
    timeouts = {name: f"{p.default:,} ms" for name, p in parameters.items() if name.endswith("_timeout")}
    assert {name: written[name] for name in timeouts} == timeouts
    limits = {name for name in parameters if name.startswith("max_")} | {"pool_size", "overflow"}
    assert limits | set(timeouts) == set(written)
    assert written["max_handshakes"] == str(parameters["max_handshakes"].default)
    assert written["overflow"] == f'`"{parameters["overflow"].default}"`'


def test_every_key_of_the_statistics_is_in_the_document() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", SERVING.read_text(encoding="utf-8"), re.M)
    keys = {key for row in rows for key in spans(row)}
    assert keys >= set(COUNTERS) | set(GAUGES)


def test_every_field_of_a_connection_is_in_the_document() -> None:
    text = SERVING.read_text(encoding="utf-8")
    assert [f.name for f in dataclasses.fields(ConnectionInfo) if f"`{f.name}`" not in text] == []


# SECURITY.md


def promises() -> list[tuple[str, list[str]]]:
    """Give each promise and the tests it names."""
    text = SECURITY.read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    return [(promise, re.findall(r"`([\w/]+\.py\S*)`", tests)) for promise, tests in rows[2:]]


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise[0][:40])
def test_every_promise_has_tests_and_they_are_there(promise: tuple[str, list[str]]) -> None:
    assert promise[1]
    for test in promise[1]:
        path, _, name = test.partition("::")
        functions = re.findall(r"^def (test_\w+)", (ROOT / "tests" / path).read_text(encoding="utf-8"), re.M)
        assert fnmatch.filter(functions, name or "*"), test


def test_no_private_key_is_in_the_project() -> None:
    begin = b"-----BEGIN"
    folders = ("gnet", "docs", "examples", "loadtests", "tests")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    files += [file for file in ROOT.iterdir() if file.is_file()]
    assert len(files) > 50
    with_key = re.compile(re.escape(begin) + rb" [A-Z ]*PRIVATE KEY-----[\r\n]+[A-Za-z0-9+/=]{40}")
    assert [file for file in files if with_key.search(file.read_bytes())] == []


def test_a_wrong_name_or_signature_would_be_noticed() -> None:
    check_signature("gnet.Port(number)")
    for wrong in ("gnet.Port(n)", "gnet.Port()", "gnet.Port(number=1)", "gnet.Port(*, number)"):
        with pytest.raises(AssertionError):
            check_signature(wrong)
    for missing in ("gnet.nothing", "Socket.nothing", "gnet.SOBool.NOTHING", "nothing"):
        with pytest.raises(LookupError):
            look_up(missing)
