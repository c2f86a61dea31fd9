"""``python -m jina_sm`` is ``jina-sm``."""

from jina_sm.cli import main

main()
