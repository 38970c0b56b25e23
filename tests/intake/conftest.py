"""Workers of several intake processes on real Kafka."""

from tests.system.conftest import site

__all__ = ["site"]
