"""Settings of a console's process for tests."""

from __future__ import annotations

from typing import Any

from tests.support.consoles import TOKEN


def settings_for(port: int, **changes: Any) -> dict[str, Any]:
    return {
        "token": TOKEN,
        "listen": f"127.0.0.1:{port}",
        "host": "127.0.0.1",
        "port": port,
        "hosts": [],
        "peers": [],
        "secure": False,
        "texts": False,
        "teaches": False,
        "cert_file": None,
        "key_file": None,
        "timeout_s": 30.0,
        **changes,
    }
