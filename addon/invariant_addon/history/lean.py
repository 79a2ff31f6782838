"""What one call leans on, from its request to its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.conversation import Exchange, Message
from ..core.references import Reference
from ..core.responses import history
from .codec import Scope
from .store import Store, Turn


@dataclass(eq=False, slots=True)
class Lean:
    """What a call leans on. scope: whose it is. before: the turn that it goes on from. memory: of
    a connection, which keeps turns that nobody else does. known: what it refers to, as found.
    is_kept: its turn is known to those that come after it. conversation, epoch: see
    followed.py."""

    scope: Scope
    before: Turn | None = None
    memory: Store | None = None
    is_kept: bool = False
    conversation: str = ""
    epoch: int | None = None
    known: dict[Reference, tuple[Message, ...]] = field(default_factory=dict)

    def complete(self, exchange: Exchange) -> Exchange:
        return history.completed(exchange, self.known)
