"""One call: how it is read, judged and refused. It knows nothing of the other calls."""
