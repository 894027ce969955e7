"""Many requests in one send, with their answers in order: each is a request with a time of its own."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import gevent

from gnet.deadlines import to_milliseconds
from gnet.locust.exchanges import Client, read_what_is_here, to_seconds
from gnet.locust.misuse import refuse
from gnet.locust.responses import CONTROL_FLOW, PipelineResponse, Response
from gnet.locust.timeouts import ExpiredError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gnet.deadlines import Timeout
    from gnet.locust.answers import Expect
    from gnet.sockets import Socket

__all__ = ["PipelineClient", "one_by_one"]


class PipelineClient(Client):
    """A client that can make many requests at once."""

    def _pipeline(
        self,
        messages: Sequence[bytes],
        data: bytes,
        read_group: Callable[[Socket, int, list[bytes]], object],
        read_again: Callable[[Socket], bytes] | None,
        expect: Expect | Sequence[Expect],
        name: str | None,
        timeout: Timeout,
        context: Mapping[str, Any] | None,
    ) -> PipelineResponse:
        """Make the requests.

        Args:
            messages: as they were given, for their names.
            data: all of them as they go out.
            read_group: waits for one answer and adds it to a list, with those that have come with it, up to
                a number in all. What came before an error is in the list.
            read_again: reads one that may be here after a timeout; `None` if that can not be told.
        """
        count = len(messages)
        expects = self._checked_expects(expect, count)
        result = PipelineResponse()
        if not count:
            return result
        socket = self._ready_socket(name or "pipeline")
        if isinstance(socket, Exception):
            result.exceptions = dict.fromkeys(range(count), socket)
            return result
        groups: list[tuple[float, int]] = []
        failure, cut = self._exchange_many(
            socket, data, count, result, groups, read_group, read_again, timeout
        )
        answers = result.data
        if type(expect) is not bytes or answers.count(expect) != len(answers):
            cut = self._judge_all(expect if expects is None else expects, expects is not None, result) or cut
        if failure is not None:
            result.exceptions |= dict.fromkeys(range(len(answers), count), failure)
        elif len(answers) < count:  # the user was stopped, and asks for no more
            messages = messages[: len(answers)]
        elif socket.has_data_buffered():
            surplus = self._too_much(socket)
            result.exceptions.setdefault(count - 1, surplus)
        if self._per_request:
            self.close()
        if name is not None and not result.exceptions:
            self._recorder.record_many(self.kind, name, groups, len(b"".join(answers)), context)
        else:
            self._record_each(messages, result, groups, name, context)
        if cut is not None:
            raise cut
        return result

    def _checked_expects(self, expect: Expect | Sequence[Expect], count: int) -> Sequence[Expect] | None:
        """Check `expect`; give it if it is one for each of `count` requests."""
        expects = expect if isinstance(expect, (list, tuple)) else None
        if expects is not None and len(expects) != count:
            refuse(self._environment, self._user, f"pipeline: {count} messages, but {len(expects)} in expect")
        for each in (expect,) if expects is None else expects:
            if each is not None and type(each) is not bytes:
                self._check_expect(each)
        return expects

    def _judge_all(self, expect: Any, is_for_each: bool, result: PipelineResponse) -> BaseException | None:
        """Note which answers are wrong.

        Returns:
            What a callable raised that is for Locust, and no error.
        """
        for number, answer in enumerate(result.data):
            try:
                wrong = self._judge(expect[number] if is_for_each else expect, answer)
            except CONTROL_FLOW as error:
                return error
            if wrong is not None:
                result.exceptions[number] = wrong
        return None

    def _exchange_many(
        self,
        socket: Socket,
        data: bytes,
        count: int,
        result: PipelineResponse,
        groups: list[tuple[float, int]],
        read_group: Callable[[Socket, int, list[bytes]], object],
        read_again: Callable[[Socket], bytes] | None,
        timeout: Timeout,
    ) -> tuple[Exception | None, BaseException | None]:
        """Send, and read into `result` and `groups`.

        Returns:
            The failure that ended it early; and what is to be raised, as it is none of a request.
        """
        timer = self._timer
        if timer.due:
            raise self._busy("pipeline")
        seconds = self._seconds if timeout is None else to_seconds(to_milliseconds(timeout))
        answers = result.data
        sent = started = perf_counter()
        if self._user is not None and self._user.intended_start is not None:
            started = self._intended(started)
        timer.begin(sent, seconds)
        failure: Exception | None = None
        cut: BaseException | None = None
        known = 0  # answers in `groups`
        try:
            socket.send(data)
            while known < count:
                read_group(socket, count - known, answers)
                groups.append(((perf_counter() - started) * 1000, len(answers) - known))
                known = len(answers)
            timer.due = 0.0
        except BaseException as error:
            timer.due = 0.0
            if isinstance(error, ExpiredError) and read_again is not None:
                while len(answers) < count and (here := read_what_is_here(socket, read_again)) is not None:
                    answers.append(here)
            if known < len(answers):
                groups.append(((perf_counter() - started) * 1000, len(answers) - known))
            if len(answers) < count or not isinstance(error, ExpiredError):
                failure = self._failure(error, socket, seconds)
                cut = error if failure is None or isinstance(error, gevent.Timeout) else None
        if failure is not None:
            result.response_time = (perf_counter() - started) * 1000
        elif groups:
            result.response_time = groups[-1][0]
        return failure, cut

    def _record_each(
        self,
        messages: Sequence[bytes],
        result: PipelineResponse,
        groups: list[tuple[float, int]],
        name: str | None,
        context: Mapping[str, Any] | None,
    ) -> None:
        """Record the requests of a pipeline one by one: some failed, or have rows of their own."""
        times = [milliseconds for milliseconds, number in groups for _ in range(number)]
        times += [result.response_time] * (len(messages) - len(times))
        for number, message in enumerate(messages):
            answer = result.data[number] if number < len(result.data) else b""
            row = self._name_of(message) if name is None else name
            self._record(Response(row, answer, times[number], result.exceptions.get(number)), context)

    def _name_of(self, message: bytes) -> str:
        return "request"


def one_by_one(read: Callable[[Socket], bytes]) -> Callable[[Socket, int, list[bytes]], None]:
    """Give what reads one answer at a time: see `PipelineClient._pipeline`."""

    def read_group(socket: Socket, most: int, answers: list[bytes]) -> None:
        answers.append(read(socket))

    return read_group
