"""Locust users for what is no HTTP: lines, raw bytes, frames, datagrams; over TCP, TLS, UDP, Unix sockets.

Importing this imports Locust, which patches the process for gevent; `import gnet` never does.
"""

from __future__ import annotations

try:
    import locust as _locust  # noqa: F401  # first: what it lacks is to be said once
except ModuleNotFoundError as error:
    if error.name != "locust":
        raise
    raise ImportError("gnet.locust needs Locust: pip install 'gnet-gevent[locust]'", name="locust") from None

from gnet.locust.answers import UnexpectedDataError, WrongAnswerError
from gnet.locust.arrival import arrival_rate
from gnet.locust.clients import DatagramClient, SocketClient
from gnet.locust.connected import ConnectedClient
from gnet.locust.exchanges import Client
from gnet.locust.hooks import install
from gnet.locust.messages import FramedClient, LineClient
from gnet.locust.responses import PipelineResponse, Response, ResponseContextManager
from gnet.locust.streams import Pending, StreamClient
from gnet.locust.users import ConnectedUser, DatagramUser, FramedUser, LineUser, SocketUser, StreamUser

__all__ = [
    "Client",
    "ConnectedClient",
    "ConnectedUser",
    "DatagramClient",
    "DatagramUser",
    "FramedClient",
    "FramedUser",
    "LineClient",
    "LineUser",
    "Pending",
    "PipelineResponse",
    "Response",
    "ResponseContextManager",
    "SocketClient",
    "SocketUser",
    "StreamClient",
    "StreamUser",
    "UnexpectedDataError",
    "WrongAnswerError",
    "arrival_rate",
    "install",
]
