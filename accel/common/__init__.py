"""What several rooms need; nothing here imports more than the standard library, so `--help` waits for nothing."""
