"""The stage of the end-to-end tests: a fake OpenAI, the real mitmdump, real clients.

Nothing here knows invariant's code. What a test can see is what a user could see: bytes on a
socket, a process and its log, saved flows.
"""
