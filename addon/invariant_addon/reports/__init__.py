"""How calls ended: counted, marked on their flows, logged, and told to whoever asks."""
