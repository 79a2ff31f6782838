"""Where guardrails come from: files, a request's headers, an Explorer's datasets."""
