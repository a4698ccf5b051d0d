"""`python -m turnkeeper.reference`."""

from turnkeeper.reference.pages import main

raise SystemExit(main())
