import pytest

from tests.browser.page import Browser


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/browser/" in str(item.path):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    with Browser(profile=tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
