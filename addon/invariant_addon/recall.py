"""What a call leans on and does not send: found, put in front of it, and kept for the next one."""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import replace

from mitmproxy import ctx, http
from mitmproxy.proxy import mode_specs

from .call import refused
from .call.state import Call
from .core.conversation import Conversation, Message
from .core.dialects import CHAT, STORED_RESPONSE
from .core.endpoints import stored_id
from .core.references import Reference
from .core.responses import history
from .core.terms import Refusal
from .history.codec import Scope
from .history.followed import Followed
from .history.lean import Lean
from .history.store import FILE, Store, Turn
from .history.upstream import Caller, UnseenError, Upstream
from .outgoing import trust
from .settings import Settings

logger = logging.getLogger(__name__)

_IDENTITY = ("authorization", "openai-organization", "openai-project")


class Recall:
    def __init__(self, settings: Settings, key: bytes) -> None:
        self._key = key
        self.store = Store(settings.data / FILE)
        self.followed = Followed()
        self._upstream = Upstream(_trust, settings.wait_ms / 1000, _proxy())

    def scope(self, request: http.Request) -> Scope:
        headers = request.headers
        return Scope.of(self._key, *(headers.get(name, "") for name in _IDENTITY))

    # -- before ---------------------------------------------------------------------------------

    async def complete(
        self, call: Call, request: http.Request, memory: Store | None = None
    ) -> None:
        """Put what a call leans on in front of it, or do as `invariant_unseen_history` says.

        memory: what this connection alone remembers.
        """
        if call.exchange is None or call.dialect is CHAT or call.refused is not None:
            return
        lean = call.lean = Lean(self.scope(request), memory=memory)
        if await self._was_refused(call, lean, request.path):
            return
        if call.dialect is STORED_RESPONSE:
            await self._complete_stored(call, lean, request.path)
            return
        refers = call.exchange.refers
        if refers is None:
            return
        unseen: list[str] = []
        if refers.prompt is not None:
            unseen.append("a stored prompt (prompt.id), whose text OpenAI does not tell")
        for reference in refers.all:
            try:
                turn = await self._find(lean, reference, request)
            except UnseenError as error:
                unseen.append(f"{_NAMES[reference.kind]}: {error}")
                continue
            lean.known[reference] = turn.said if reference.kind == "item" else turn.messages
            if reference == refers.before:
                lean.before = turn
        call.exchange = lean.complete(call.exchange)
        if refers.before is not None and refers.before.kind == "conversation":
            # From now on it is another one, whatever comes of this call.
            lean.conversation = refers.before.id
            lean.epoch = self.followed.stir(refers.before.id)
        if unseen:
            _miss(call, unseen)

    async def _was_refused(self, call: Call, lean: Lean, path: str) -> bool:
        """Whether the reply that it wants was refused, before this proxy was started."""
        wanted = refused.wanted_reply(call, path)
        if wanted is None or self.store.at_hand(lean.scope, Reference("response", wanted)):
            return False
        turn = await self._look(lean, Reference("refused", wanted))
        return turn is not None and refused.refuse(call, refused.read(turn.said[0]))

    async def _complete_stored(self, call: Call, lean: Lean, path: str) -> None:
        assert call.exchange is not None
        name = Reference("response", stored_id(path) or "")
        if (turn := await self._look(lean, Reference("asked", name.id))) is not None:
            lean.before, asked = turn, turn.messages
        elif (turn := await self._look(lean, name)) is not None and turn.said:
            asked = turn.messages[: -len(turn.said)]
        else:
            return
        conversation = Conversation(asked, unsent=frozenset(range(len(asked))))
        call.exchange = replace(call.exchange, conversation=conversation)

    async def _look(self, lean: Lean, reference: Reference) -> Turn | None:
        if lean.memory is not None and (turn := lean.memory.at_hand(lean.scope, reference)):
            return turn
        if turn := self.store.at_hand(lean.scope, reference):
            return turn
        return await asyncio.to_thread(self.store.find, lean.scope, reference)

    async def _find(self, lean: Lean, reference: Reference, request: http.Request) -> Turn:
        """Raises UnseenError."""
        if reference.kind == "conversation":
            turn = self.followed.find(lean.scope, reference.id)
        else:
            turn = await self._look(lean, reference)
        if turn is not None:
            return turn

        def known(name: Reference) -> tuple[Message, ...] | None:
            found = self.store.find(lean.scope, name)
            return found.messages if found else None

        caller = Caller(
            f"{request.scheme}://{_authority(request)}",
            {name: request.headers[name] for name in _IDENTITY if name in request.headers},
        )
        messages = await self._upstream.fetch(caller, reference, known)
        names = [reference] if reference.kind == "response" else []
        return await asyncio.to_thread(self.store.add, lean.scope, None, messages, (), names)

    # -- after ----------------------------------------------------------------------------------

    async def remember(self, call: Call, *, is_live: bool = True) -> None:
        """Keep a call's turn, if OpenAI does and it was delivered. Never raises. is_live: or else
        for its own connection alone."""
        try:
            await self._remember(call, is_live=is_live)
        except Exception:  # the edge: a call that cannot be kept was judged all the same
            logger.exception("a conversation could not be kept")
        lean = call.lean
        if lean is not None and lean.epoch is not None and not lean.is_kept:
            # It may have been written to all the same.
            self.followed.stir(lean.conversation)

    async def _remember(self, call: Call, *, is_live: bool) -> None:
        lean, exchange = call.lean, call.exchange
        if lean is None or lean.is_kept or exchange is None:
            return
        if call.refused is not None:
            if is_live and (reply_id := refused.refused_reply(call)) is not None:
                lean.is_kept = True
                told, names = (refused.written(call.refused),), [Reference("refused", reply_id)]
                await asyncio.to_thread(self.store.add, lean.scope, None, (), told, names)
            return
        reply = call.reply_so_far
        response = call.completion
        said = reply.turns if reply else ()
        kept = history.kept(response)
        if kept is None:
            queued = response.get("id")
            if response.get("status") in ("queued", "in_progress") and isinstance(queued, str):
                # What it was asked; what it says is fetched later.
                await self._keep(call, lean, (), [Reference("asked", queued)], on_disk=True)
            return
        if call.unjudged is not None:
            return  # the next turn fetches it, and judges it
        lean.is_kept = True
        names = [Reference("response", kept.response), *kept.others]
        is_sealed = any(name.kind == "sealed" for name in names)
        if call.dialect is STORED_RESPONSE:
            if lean.before is None:
                return  # what it was asked is not known; or it is known whole
            await asyncio.to_thread(self.store.add, lean.scope, lean.before, (), said, names)
            return
        on_disk = is_sealed or exchange.refers is None or exchange.refers.stored
        on_disk = on_disk and is_live
        if on_disk or lean.memory is not None:
            turn = await self._keep(call, lean, said, names, on_disk=on_disk)
            if kept.conversation:
                self.followed.follow(lean.scope, kept.conversation, turn, lean.epoch)

    async def _keep(
        self,
        call: Call,
        lean: Lean,
        said: tuple[Message, ...],
        names: list[Reference],
        *,
        on_disk: bool,
    ) -> Turn:
        assert call.exchange is not None
        before = len(lean.before.messages) if lean.before else 0
        asked = history.new_turns(call.exchange, before)
        store = self.store if on_disk else lean.memory
        assert store is not None

        def work() -> Turn:
            return store.add(lean.scope, lean.before, asked, said, names)

        return await asyncio.to_thread(work)

    async def aclose(self) -> None:
        await self._upstream.aclose()
        self.store.close()


_NAMES = {
    "response": "the reply that it goes on from (previous_response_id)",
    "conversation": "the conversation that it goes on with",
    "item": "an item that it refers to (item_reference)",
    "sealed": "a compacted conversation",
}


def _miss(call: Call, unseen: list[str]) -> None:
    reason = f"the model reads more than was seen here: {'; '.join(dict.fromkeys(unseen))}"
    if call.settings is not None and call.settings.passes_unseen:
        call.unjudged = reason
    else:
        call.refused = Refusal(
            reason=f"{reason}. invariant_unseen_history=pass would let it pass, with a mark"
        )


def _authority(request: http.Request) -> str:
    host = f"[{request.host}]" if ":" in request.host else request.host
    default = {"https": 443, "http": 80}.get(request.scheme)
    return host if request.port == default else f"{host}:{request.port}"


def _trust() -> ssl.SSLContext:
    """Whom mitmproxy trusts."""
    context = trust()
    if file := ctx.options.ssl_verify_upstream_trusted_ca:
        context.load_verify_locations(cafile=file)
    if folder := ctx.options.ssl_verify_upstream_trusted_confdir:
        context.load_verify_locations(capath=folder)
    if ctx.options.ssl_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy() -> str | None:
    """The proxy that mitmproxy itself goes through."""
    for mode in ctx.options.mode:
        parsed = mode_specs.ProxyMode.parse(mode)
        if isinstance(parsed, mode_specs.UpstreamMode):
            host, port = parsed.address
            return f"{parsed.scheme}://{host}:{port}"
    return None
