"""The stream layer that sends nothing but what was judged.

What another addon, or a person at an intercepted flow, changes after the verdict is judged again at
the last moment before it leaves. It knows no dialect and no engine; imports mitmproxy only.
"""

from __future__ import annotations

from mitmproxy.proxy import layer
from mitmproxy.proxy.layers.http import DropStream, HttpResponseHeadersHook, HttpStream

from .letting_go import State, leave_stack
from .seals import (
    SEALED,
    SEALED_REPLY,
    ChangedMessage,
    InvariantChangedHook,
    Seal,
    seal,
    seal_reply,
)


class SealedHttpStream(HttpStream):
    """One HTTP exchange."""

    client_state = State()
    server_state = State()

    def make_server_connection(self) -> layer.CommandGenerator[bool]:
        """The last moment before a request leaves: is it what was judged?"""
        if self.flow.request.method != "CONNECT":
            judged = self.flow.metadata.pop(SEALED, None)
            if judged != seal(self.flow.request):
                changed = ChangedMessage(self.flow, judged, is_reply=False)
                yield InvariantChangedHook(changed)
                if (yield from super().check_killed(True)):
                    yield from self._drop()
                    return False
                if changed.response is not None:
                    self.flow.response = changed.response
                    yield HttpResponseHeadersHook(self.flow)
                    yield from self.send_response()
                    return False
        return (yield from super().make_server_connection())

    def check_killed(self, emit_error_hook: bool) -> layer.CommandGenerator[bool]:
        killed = yield from super().check_killed(emit_error_hook)
        if not killed and (judged := self.flow.metadata.pop(SEALED_REPLY, None)) is not None:
            killed = yield from self._look_at_reply(judged)
        return killed

    def _look_at_reply(self, judged: Seal) -> layer.CommandGenerator[bool]:
        """The last moment before a whole reply is sent: is it what was judged? True: killed."""
        if self.flow.response is None or judged == seal_reply(self.flow.response):
            return False
        changed = ChangedMessage(self.flow, judged, is_reply=True)
        yield InvariantChangedHook(changed)
        self.flow.response = changed.response or self.flow.response
        return (yield from super().check_killed(False))

    def _drop(self) -> layer.CommandGenerator[None]:
        """Nothing that still comes for it is wanted. mitmproxy keeps some until their connection
        ends, with all that they hold."""
        yield DropStream(self.stream_id)
        leave_stack(self)
