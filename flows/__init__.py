"""Prefect flows: the whole pipeline, its halves, and one stage alone."""

import os

# Prefect reads these when it is imported. A laptop's first start of the temporary server can take a minute, and its
# analytics would try the network.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
