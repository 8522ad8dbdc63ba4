"""Object stores without a server, and the view that another process has of them."""

from __future__ import annotations

import uuid

import pytest


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path) -> str:
    return f"memory://{uuid.uuid4().hex}/b" if request.param == "memory" else f"file://{tmp_path}/b"
