"""The automations of ``automations.yaml`` on a Prefect server: ``python -m flows.automations`` creates them."""

from __future__ import annotations

from pathlib import Path

import yaml
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore

__all__ = ["described", "install"]

_FILE = Path(__file__).with_name("automations.yaml")


def described() -> list[AutomationCore]:
    """What the file describes."""
    return [AutomationCore.model_validate(each) for each in yaml.safe_load(_FILE.read_text())["automations"]]


def install() -> None:
    """Create those that the server lacks, by name; what somebody has changed or switched off there stays so."""
    with get_client(sync_client=True) as client:
        for automation in described():
            if not client.read_automations_by_name(automation.name):
                client.create_automation(automation)


if __name__ == "__main__":
    install()
