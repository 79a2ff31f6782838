"""Members and keys in a rule: which there are, and what to write instead of those there are not."""

from __future__ import annotations

from difflib import get_close_matches

from .kinds import ATTRIBUTES, LISTS, PARTS, Kind, Kinds, Node, is_a

WORDS = {
    Kind.MESSAGE: "a message",
    Kind.CALL: "a tool call",
    Kind.OUTPUT: "a tool output",
    Kind.FUNCTION: "a function",
    Kind.TEXT: "a text",
    Kind.NUMBER: "a number",
    Kind.BOOL: "true or false",
    Kind.NONE: "None",
    Kind.OBJECT: "an object",
    Kind.INPUT: "input",
    Kind.CALLABLE: "a function",
} | dict.fromkeys(LISTS, "a list")
_MEMBERS = {
    (Kind.MESSAGE, "text"): "content",
    (Kind.MESSAGE, "message"): "content",
    (Kind.CALL, "name"): "function.name",
    (Kind.CALL, "tool"): "function.name",
    (Kind.CALL, "arguments"): "function.arguments",
    (Kind.CALL, "args"): "function.arguments",
    (Kind.OUTPUT, "text"): "content",
    (Kind.OUTPUT, "output"): "content",
    (Kind.OUTPUT, "result"): "content",
    (Kind.FUNCTION, "args"): "arguments",
}
PATTERNS = ("ToolReference", "SemanticPattern")
SINGLE = {Kind.NUMBER, Kind.BOOL}


def member_of(node: Node, kinds: Kinds) -> str | None:
    if is_a(node.expr, *PATTERNS):
        return _tool_name()
    if is_a(node.expr, "BinaryExpr") and node.expr.op in ("and", "or"):
        return "put parentheses around each part of a chain of and, or"
    kind, member = kinds.of(node.expr), node.member
    if kind in ATTRIBUTES:
        return None if member in ATTRIBUTES[kind] else _no_member(node, kind)
    if kind in LISTS:
        if member == "length":
            return f"write len({said(node.expr)})"
        variable = "(c: ToolCall)" if kind is Kind.CALLS else "(x: ...)"
        return f"a list has no .{member}, write {variable} in {said(node.expr)}"
    if kind is Kind.BOOL:
        return "put parentheses around each part of this condition"
    if kind in (Kind.NUMBER, Kind.NONE, Kind.CALLABLE) and not is_a(node.expr, "Identifier"):
        return f"{WORDS[kind]} has no .{member}"
    return None


def _no_member(node: Node, kind: Kind) -> str:
    known = ATTRIBUTES[kind]
    near = get_close_matches(node.member, known, 1)
    instead = _MEMBERS.get((kind, node.member)) or (near[0] if near else None)
    if instead:
        return f"{WORDS[kind]} has no .{node.member}, write {said(node.expr)}.{instead}"
    names = ", ".join(f".{name}" for name in known if name != "metadata")
    return f"{WORDS[kind]} has no .{node.member}, it has {names}"


def _tool_name() -> str:
    return 'write c.function.name == "..." for a tool whose name has a dot or a dash in it'


def key_of(node: Node, kinds: Kinds) -> str | None:
    kind, key = kinds.of(node.expr), kinds.of(node.key)
    if kind in PARTS:
        name = node.key.value if is_a(node.key, "StringLiteral") else "..."
        return f"{WORDS[kind]} has no keys, write {said(node.expr)}.{name}"
    if kind in LISTS | {Kind.TEXT} and key is Kind.TEXT:
        return f"{WORDS[kind]} has no keys"
    if kind in SINGLE:
        return f"{WORDS[kind]} has no parts"
    if kind is Kind.OBJECT and key is Kind.NUMBER:
        return "the keys of an object are texts"
    return None


def said(node: Node) -> str:
    """A variable and its members as the rule says them."""
    if is_a(node, "MemberAccess"):
        return f"{said(node.expr)}.{node.member}"
    return str(node.name) if is_a(node, "Identifier") else "..."
