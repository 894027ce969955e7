"""The clients of messages: frames, and lines; one at a time or many in one send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gnet.locust.misuse import refuse
from gnet.locust.pipelines import PipelineClient, one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from locust.env import Environment

    from gnet.deadlines import Timeout
    from gnet.locust.answers import Expect
    from gnet.locust.connections import Terms
    from gnet.locust.events import Recorder
    from gnet.locust.framing import Framing
    from gnet.locust.responses import PipelineResponse, Response
    from gnet.locust.users import ConnectedUser
    from gnet.sockets import Socket

__all__ = ["FramedClient", "LineClient"]

_LONGEST_NAME: Final = 40


class FramedClient(PipelineClient):
    """Messages with a framing: each is one request."""

    kind = "FRAME"

    def __init__(
        self,
        terms: Terms,
        recorder: Recorder,
        environment: Environment,
        user: ConnectedUser | None = None,
        *,
        framing: Framing,
    ) -> None:
        """Make a client that is not connected yet; users do."""
        super().__init__(terms, recorder, environment, user)
        self._framing = framing
        self._encode = framing.encode
        self._read = framing.read

    def request(
        self,
        message: bytes,
        *,
        expect: Expect = None,
        name: str | None = None,
        read: Callable[[Socket], bytes] | None = None,
        catch_response: bool = False,
        timeout: Timeout = None,
        context: Mapping[str, Any] | None = None,
    ) -> Response:
        """Send a message and read the answer to it.

        Args:
            message: without its line end or length, which is added.
            expect: what the answer is to be, without its own: `bytes`; a compiled pattern that
                matches all of it; or a callable that gives true for it. Another answer is a failure.
            name: the row; unless given, the first word of a line.
            read: reads the answer if it is more than one line (or frame): is called with the
                `gnet.Socket`, gives the answer, and may raise. The time ends when it returns.
            catch_response: give a response for a `with` block, which may call its `success()` or
                `failure(…)`; the request is recorded when the block ends.
            timeout: milliseconds or `timedelta`; the user's unless given.
            context: for listeners of Locust's event, beside `User.context()`.
        Returns:
            The response. A failure is in its `exception`; nothing is raised.
        """
        try:
            data = self._encode(message)
        except (TypeError, ValueError) as error:
            refuse(self._environment, self._user, str(error))
        return self.exchange(
            data,
            self._read if read is None else read,
            self._name_of(message) if name is None else name,
            expect,
            catch_response,
            timeout,
            context,
            can_repeat=read is None,
        )

    def pipeline(
        self,
        messages: Sequence[bytes],
        *,
        expect: Expect | Sequence[Expect] = None,
        name: str | None = None,
        read: Callable[[Socket], bytes] | None = None,
        timeout: Timeout = None,
        context: Mapping[str, Any] | None = None,
    ) -> PipelineResponse:
        """Send messages at once, in one send, and read as many answers. Each is a request with its own time.

        The time of a request is from the send until its answer was read. Answers that came together
        count as read when the last of them was (64 of them at most: some 10 µs).

        Args:
            expect: for all; or a list or tuple with one for each.
            name, read, timeout, context: as in `request`; `read` is called for each answer, and the timeout
                is for each, and begins with the send.
        """
        try:
            data = self._framing.encode_many(messages)
        except (TypeError, ValueError) as error:
            refuse(self._environment, self._user, str(error))
        return self._pipeline(
            messages,
            data,
            self._framing.read_group if read is None else one_by_one(read),
            self._read if read is None else None,
            expect,
            name,
            timeout,
            context,
        )

    def _encoded(self, message: bytes) -> bytes:
        try:
            return self._encode(message)
        except (TypeError, ValueError) as error:
            refuse(self._environment, self._user, str(error))


class LineClient(FramedClient):
    """Lines: each is one request, and its answer one line."""

    kind = "LINE"

    def _name_of(self, message: bytes) -> str:
        words = message.split(None, 1)
        return words[0][:_LONGEST_NAME].decode("ascii", "backslashreplace") if words else "blank"
