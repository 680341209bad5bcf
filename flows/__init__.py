"""Prefect flows: the whole pipeline, its halves, and one stage alone."""

import os

# Prefect reads these when it is imported. A laptop's first start of the temporary server can take a minute; its
# analytics would try the network; and the terminal is for the stages' own lines: what Prefect logs stands in its UI.
# By its heartbeats a run is known to live (see `flows.bootstrap`); 30 seconds is the least that Prefect allows.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
