"""Provisioned sites for tests, on a real mosquitto with mutual TLS."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeslm.cli import main
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import write_configuration


class Provisioned:
    """A broker and its folder, made by ``edgeslm provision``."""

    folder: Path
    broker: SiteBroker

    def login(self, name: str) -> dict[str, str]:
        """The section ``broker`` of a client's configuration."""
        return {
            "url": f"mqtts://localhost:{self.broker.port}",
            "ca_file": str(self.folder / "ca.pem"),
            "cert_file": str(self.folder / f"{name}.pem"),
            "key_file": str(self.folder / f"{name}.key"),
        }

    def app(self, name: str, *filters: str, version: int = 5) -> App:
        return App(
            self.broker.port,
            *filters,
            version=version,
            ca_file=self.folder / "ca.pem",
            cert_file=self.folder / f"{name}.pem",
        )


class Site(Provisioned):
    """``configurations`` by node; ``apps`` as for ``edgeslm provision``. The broker isn't started."""

    def __init__(self, folder: Path, configurations: dict[str, dict[str, Any]], apps: Sequence[str]) -> None:
        self.folder = folder / "site"
        self.broker = SiteBroker(folder, self.folder)
        names = [app.partition(":")[0] for app in apps]
        run("provision", "keys", self.folder, "--broker-host", "localhost", "--broker-host", "127.0.0.1",
            *(part for node in configurations for part in ("--node", node)),
            *(part for app in names for part in ("--app", app)))  # fmt: skip
        files = []
        for node, configuration in configurations.items():
            (home := folder / node).mkdir()
            configuration["broker"] = {
                **self.login(node),
                "client_id_file": str(self.folder / f"{node}.id"),
            }
            files.append(write_configuration(home, {"node": node, **configuration}))
        run("provision", "broker", self.folder, *files, "--port", self.broker.port,
            *(part for app in apps for part in ("--app", app)))  # fmt: skip


class SiteBroker(Mosquitto):
    """A broker with exactly the settings that ``edgeslm provision broker`` wrote to ``site``.

    ``more`` is appended, like the next file of a ``conf.d``.
    """

    def __init__(self, folder: Path, site: Path) -> None:
        super().__init__(folder)
        self._site = site
        self.more = ""

    def _settings(self) -> str:
        settings = (self._site / "mosquitto.conf").read_text("utf-8")
        settings += f"persistence_location {self._folder}/\nlog_type all\n"
        # As root, mosquitto would change to a user who can't read the test's folder.
        return settings + ("user root\n" if os.geteuid() == 0 else "") + self.more


def run(*arguments: object) -> None:
    assert main.main([str(one) for one in arguments]) == 0
