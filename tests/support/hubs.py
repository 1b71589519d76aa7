"""A hub and sites bridged to it, for tests: real mosquittos with mutual TLS, on a network that fails."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.apps import App
from tests.support.benchmarks.scripts import load_scripts
from tests.support.sites import Provisioned, Site, SiteBroker, run

SITE_APPS = ("root:read=#,write=#", "desk:hall/triage")


class Hub(Provisioned):
    """``sites``: the nodes' configurations by site and node. ``options`` are those of ``edgeslm provision
    site``, for every site; ``apps`` are the hub's. Nothing is started.
    """

    def __init__(
        self,
        folder: Path,
        sites: Mapping[str, dict[str, dict[str, Any]]],
        *,
        apps: Sequence[str] = ("root:read=#,write=#",),
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder / "hub"
        self.broker = SiteBroker(folder, self.folder)
        self.network = load_scripts("chaos_proxy")["chaos_proxy"].Proxy(self.broker.port)
        names = [app.partition(":")[0] for app in apps]
        run("provision", "keys", self.folder, "--broker-host", "localhost", "--broker-host", "127.0.0.1",
            *(part for app in names for part in ("--app", app)))  # fmt: skip
        self.sites = {name: self._join(folder / name, name, nodes, options) for name, nodes in sites.items()}
        lists = [self.folder / f"site-{name}.acl" for name in sites]
        run("provision", "broker", self.folder, "--port", self.broker.port,
            *(part for app in apps for part in ("--app", app)),
            *(part for file in lists for part in ("--include", file)))  # fmt: skip

    def _join(self, home: Path, name: str, nodes: dict[str, dict[str, Any]], options: Sequence[str]) -> Site:
        home.mkdir()
        site = Site(home, nodes, SITE_APPS)
        files = [home / node / "config.yaml" for node in nodes]
        run("provision", "site", self.folder, *files, "--site", name,
            "--hub", f"mqtts://localhost:{self.network.port}", *options)  # fmt: skip
        settings = (self.folder / f"site-{name}.conf").read_text("utf-8")
        # So that the bridge reconnects after seconds, not a minute.
        site.broker.more, found = re.subn(r"(?m)^restart_timeout .*$", "restart_timeout 1 2", settings)
        assert found == 1
        return site

    def __enter__(self) -> Hub:
        self.broker.start()
        for site in self.sites.values():
            site.broker.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for site in self.sites.values():
            site.broker.stop()
        self.network.stop()
        self.broker.stop()

    def cut(self) -> None:
        """Cuts all sites off; the hub notices at once."""
        self.network.close()
        self.network.cut()

    def mend(self) -> None:
        self.network.open()
        self.network.cut()  # clients that waited for an answer reconnect at once

    def wait_for_link(self, app: App, site: str, state: bytes = b"1") -> None:
        """Waits for the bridge's state; ``app`` must be subscribed to it."""
        app.take(f"site/{site}/link", lambda heard: heard.payload == state)
