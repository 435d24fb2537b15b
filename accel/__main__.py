"""`python -m accel`."""

from accel.cli import main

raise SystemExit(main())
