"""The same browser as the tests of the page."""

from tests.page.conftest import browser  # noqa: F401  # a fixture
