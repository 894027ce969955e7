"""What a request gives: the answer, or why there is none; and the form of it that a `with` block judges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import gevent
from locust.exception import (
    CatchResponseError,
    InterruptTaskSet,
    LocustError,
    RescheduleTask,
    RescheduleTaskImmediately,
    ResponseError,
    StopTest,
    StopUser,
)

from gnet.errors import TimeoutError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from gnet.locust.events import Recorder

__all__ = ["CONTROL_FLOW", "PipelineResponse", "Response", "ResponseContextManager"]

CONTROL_FLOW: Final = (StopUser, StopTest, RescheduleTask, RescheduleTaskImmediately, InterruptTaskSet)
"""Exceptions by which a task tells Locust what to do next: no request has failed with them."""

_NO_BLOCK: Final = "to change the outcome of a request, pass catch_response=True and use it with `with`"


class Response:
    """The answer to a request. A failure is in `exception`, and recorded; it is not raised."""

    __slots__ = ("data", "exception", "name", "response_time")

    def __init__(self, name: str, data: bytes, response_time: float, exception: Exception | None) -> None:
        self.name = name
        """The row that the request counts in."""
        self.data = data
        """The answer, without its line end or its length; `b""` if none came."""
        self.response_time = response_time
        """Milliseconds from just before the send until the answer was read, or until the failure."""
        self.exception = exception
        """Why the request failed; `None` if it did not."""

    @property
    def ok(self) -> bool:
        """Whether the request went well."""
        return self.exception is None

    @property
    def text(self) -> str:
        """The answer as text (UTF-8; what is none is escaped)."""
        return self.data.decode("utf-8", "backslashreplace")

    def raise_for_status(self) -> None:
        """Raise what the request failed with, if it did."""
        if self.exception is not None:
            raise self.exception

    def success(self) -> None:
        """Only within `with client.request(…, catch_response=True)`.

        Raises:
            LocustError: always, here.
        """
        raise LocustError(_NO_BLOCK)

    def failure(self, exception: object) -> None:
        """Only within `with client.request(…, catch_response=True)`.

        Raises:
            LocustError: always, here.
        """
        raise LocustError(_NO_BLOCK)

    def __enter__(self) -> Self:
        """Only of `client.request(…, catch_response=True)`.

        Raises:
            LocustError: always, here.
        """
        raise LocustError(_NO_BLOCK)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Never called here."""
        return None

    def __repr__(self) -> str:
        outcome = f"{len(self.data)} bytes" if self.exception is None else repr(self.exception)
        return f"<{type(self).__name__} {self.name} {self.response_time:.3f} ms: {outcome}>"


class ResponseContextManager(Response):
    """A response whose outcome the `with` block may change; it is recorded when the block ends.

    As Locust's own: `success()` and `failure(…)` have the last word. Else it counts as it went; and as
    failed if the block raises. A `ResponseError` goes no further, other exceptions do.
    """

    __slots__ = ("_context", "_entered", "_is_sent", "_kind", "_outcome", "_recorder")

    def __init__(
        self,
        response: Response,
        recorder: Recorder,
        kind: str,
        context: Mapping[str, Any] | None,
        is_sent: bool = True,
    ) -> None:
        """Wrap a response that is not recorded yet.

        Args:
            is_sent: if not, there was no connection; that is recorded, and this is not.
        """
        super().__init__(response.name, response.data, response.response_time, response.exception)
        self._recorder = recorder
        self._kind = kind
        self._context = context
        self._is_sent = is_sent
        self._entered = False
        self._outcome: Exception | bool | None = None  # True: a success

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._outcome is True:
            self.exception = None
        elif isinstance(self._outcome, Exception):
            self.exception = self._outcome
        elif isinstance(error, gevent.Timeout):
            self.exception = TimeoutError(f"{self._kind}: cut short by a gevent.Timeout of the task")
        elif isinstance(error, Exception) and not isinstance(error, CONTROL_FLOW):
            self.exception = error
        if self._is_sent:
            self._recorder.record(
                self._kind,
                self.name,
                self.response_time,
                len(self.data),
                self.exception,
                self,
                self._context,
            )
        return self._outcome is None and isinstance(error, ResponseError)

    def success(self) -> None:
        """Count the request as a success, whatever came."""
        self._check_entered()
        self._outcome = True

    def failure(self, exception: object) -> None:
        """Count the request as failed.

        Args:
            exception: or a text, which becomes Locust's `CatchResponseError`.
        """
        self._check_entered()
        self._outcome = exception if isinstance(exception, Exception) else CatchResponseError(exception)

    def _check_entered(self) -> None:
        if not self._entered:
            raise LocustError(
                "the outcome can only be changed within the block: with client.request(…) as response: …"
            )


class PipelineResponse:
    """The answers to the requests of a pipeline. Failures are in `exceptions`, and recorded."""

    __slots__ = ("data", "exceptions", "response_time")

    def __init__(self) -> None:
        self.data: list[bytes] = []
        """The answers that came, in order."""
        self.exceptions: dict[int, Exception] = {}
        """The requests that failed, by their number from 0, and why."""
        self.response_time = 0.0
        """Milliseconds until the last answer was read."""

    @property
    def ok(self) -> bool:
        """Whether all went well."""
        return not self.exceptions

    def raise_for_status(self) -> None:
        """Raise what the first failed request failed with, if one did."""
        for number in sorted(self.exceptions):
            raise self.exceptions[number]
