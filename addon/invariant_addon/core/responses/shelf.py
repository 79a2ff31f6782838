"""The output items of a streamed Responses reply, by the places that events name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..chat.limits import MAX_CHOICES, check_count
from ..draft import ChoiceDraft
from .item import Item

AROUND = -1
"""The place of what belongs to no item."""

_MAX_ITEMS = 8 * MAX_CHOICES


class Shelf:
    """drafts: of all items, in the order in which they began, for the gate."""

    def __init__(self) -> None:
        self.drafts: dict[int, ChoiceDraft] = {}
        self._items: dict[int, Item] = {}
        self._by_id: dict[str, int] = {}
        self._ended = False
        self.around = self._put(AROUND)
        """It comes last, so that what is in it stands between no two texts."""
        self.around.held = False

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def find(self, event: dict[str, Any]) -> Item:
        """By `output_index`, else by the id; a new one if there is none."""
        key = event.get("output_index")
        if key is None:
            item_id = event.get("item_id")
            if not isinstance(item_id, str):
                return self.around
            key = self._by_id.setdefault(item_id, -1 - len(self._items))
        return self._items.get(key) or self._begin(key)

    def find_said(self, event: dict[str, Any]) -> Item:
        """The one that an event says as a whole, under the key `item`."""
        item_id = event["item"].get("id")
        if not isinstance(item_id, str):
            return self.find(event)
        found = self.find({"output_index": event.get("output_index"), "item_id": item_id})
        self._by_id.setdefault(item_id, found.key)
        return found

    def end(self) -> None:
        self._ended = True
        for item in self:
            item.end()

    def contents(self) -> list[dict[str, Any]]:
        """The items in OpenAI's form, in order; those without an index last."""
        items = sorted(self, key=lambda item: item.key if item.key >= 0 else len(self._items))
        return [item.content() for item in items if item is not self.around]

    def _begin(self, key: int) -> Item:
        check_count(len(self._items) + 1, _MAX_ITEMS, "items of a reply")
        item = self._put(key)
        self._items[AROUND], self.drafts[AROUND] = (
            self._items.pop(AROUND),
            self.drafts.pop(AROUND),
        )
        return item

    def _put(self, key: int) -> Item:
        item = self._items[key] = Item(key, ended=self._ended)
        self.drafts[key] = item.draft
        return item
