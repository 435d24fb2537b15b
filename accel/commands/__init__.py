"""One module a command, each with HELP, `add_arguments(parser)` and `run(given)`, which gets what the user wrote."""
