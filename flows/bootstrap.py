"""What a Prefect server must hold before longrl runs on it: the limits that runs share, and who reports lost runs.

`deployments.register` and every server that a command starts for itself (see `flows.server`) see to it. What a person
changed on the server stays.

A run that ends in order, however badly, reports itself. One whose process is killed is reported by its worker within
seconds. When that is gone too (the machine went down), there are only the missing heartbeats: every run sends one each
`HEARTBEAT` seconds (set in `flows`), and an automation reports as crashed whose last one is older than `SILENCE`.
"""

from __future__ import annotations

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists

from tasks.limits import GPU, TEACHER

# name: slots, and how many of them are free again each second (0: when they are given back)
LIMITS = {GPU: (1, 0.0), TEACHER: (100, 50.0)}
SILENCE = timedelta(seconds=90)  # three heartbeats
STARTING = timedelta(minutes=10)  # a container may have to be pulled first
ENDS = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled", "Cached", "TimedOut")}


def bootstrap() -> None:
    """Create on the server of PREFECT_API_URL what is not there yet."""
    with get_client(sync_client=True) as client:
        for name, (slots, decay) in LIMITS.items():
            create_limit(client, name, slots, decay)
        known = {automation.name for automation in client.read_automations()}
        for automation in automations():
            if automation.name not in known:
                client.create_automation(automation)


def create_limit(client: SyncPrefectClient, name: str, slots: int, decay: float) -> None:
    """A global concurrency limit, unless there is one of this name."""
    try:
        client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=slots, slot_decay_per_second=decay)
        )
    except ObjectAlreadyExists:
        return


def automations() -> list[AutomationCore]:
    """Those that report runs as crashed: one whose heartbeats stop, and one that was handed out and never begins."""
    beat, running = "prefect.flow-run.heartbeat", "prefect.flow-run.Running"
    handed_out = {"prefect.flow-run.Pending", "prefect.flow-run.Submitting"}
    return [
        reporting("longrl: runs without heartbeats crashed", {beat}, {beat, *ENDS}, SILENCE),
        reporting("longrl: runs that never begin crashed", handed_out, {running, *ENDS}, STARTING),
    ]


def reporting(name: str, after: set[str], expect: set[str], within: timedelta) -> AutomationCore:
    """Reports a run as crashed when nothing of `expect` follows `after` in time."""
    return AutomationCore(
        name=name,
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            after=after,
            expect=expect,
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No sign of life for {within.total_seconds():.0f} s: the process or its machine is gone. "
                "Run it again, it goes on from what is finished.",
            )
        ],
    )
