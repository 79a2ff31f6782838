"""Who may connect, what is decrypted, and how upstream is reached."""
