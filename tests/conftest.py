"""What holds for every test: the same examples in every run, however slow the machine, and nobody's settings."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Two workers share two cores: threads that spin for each other's results would take the time of the tests beside them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A person's own keys, proxies and terminal width are none of the tests' business.
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)

# pytest --hypothesis-profile=exploring looks for new examples.
settings.register_profile("exploring", deadline=None)
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

LONGEST = (
    "test_deployment.py",
    "test_sampling.py",
    "test_scan.py",
    "test_resume.py",
    "test_runners.py",
    "test_predict.py",
    "test_cli.py",
    "test_engine.py",
    "test_flow.py",
    "test_batch.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that in the end no worker has a long one to itself."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
