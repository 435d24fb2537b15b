"""What several rooms need, on the standard library alone."""
