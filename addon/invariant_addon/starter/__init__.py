"""Rules that are on by default, and what they look for: pure functions over texts and arguments.

Rules import these through engines/detectors.py, which says where in a conversation they found it.
"""
