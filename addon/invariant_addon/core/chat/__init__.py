"""The chat completions dialect: bodies and streamed chunks to the one model, and back."""
