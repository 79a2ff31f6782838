"""mitmproxy's protocol layers, with what they send held until somebody has judged it."""
