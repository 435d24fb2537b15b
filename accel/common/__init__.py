"""Code that several packages share. It imports only the standard library, so that `--help` is fast."""
