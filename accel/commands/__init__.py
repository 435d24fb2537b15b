"""One module per command, each with HELP, `add_arguments(parser)` and `run(given)`; `given` has the given options."""
