"""What the scripts call: certificates, and the environment of a guarded program."""
