"""What OpenAI keeps of conversations, kept here as well, so that whole conversations are judged."""
