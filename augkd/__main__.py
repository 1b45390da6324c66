"""``python -m augkd`` is ``augkd``."""

from augkd.cli import main

main()
