"""Broker settings (mosquitto) of a site: a shipped profile with certificates instead of passwords.

Profiles are ``firmware-config/mosquitto/*.conf``, installed as ``edgeslm/mosquitto``.
"""

from __future__ import annotations

from pathlib import Path

from edgeslm.cli.provision.certificates import AUTHORITY, BROKER
from edgeslm.errors import ProvisionError

ACCESS = "access.acl"
SETTINGS = "mosquitto.conf"
PROFILES = ("strict", "balanced", "sqlite-2.1")

_LOGIN = """\
listener 1883
password_file /etc/mosquitto/edgeslm.passwd
allow_anonymous false
"""
"""Login settings in the profiles, which :data:`_MUTUAL_TLS` replaces."""
_MUTUAL_TLS = """\
# Clients need a certificate of this site's authority; the name in it is their login.
listener {port}
cafile {folder}/{authority}.pem
certfile {folder}/{broker}.pem
keyfile {folder}/{broker}.key
require_certificate true
use_identity_as_username true
tls_version tlsv1.2
allow_anonymous false

# The access list, made by `edgeslm provision acl`. mosquitto reloads it on SIGHUP.
acl_file {folder}/{access}
"""


def profile_text(name: str) -> str:
    package = Path(__file__).resolve().parents[2]
    installed = package / "mosquitto"
    folder = installed if installed.is_dir() else package.parent / "firmware-config" / "mosquitto"
    try:
        return (folder / f"{name}.conf").read_text("utf-8")
    except OSError as error:
        raise ProvisionError(f"the broker's profile {name} can't be read: {error.strerror}") from None


def broker_settings(profile: str, folder: Path, port: int = 8883) -> str:
    """A complete ``mosquitto.conf`` for a broker with keys and access list in ``folder``.

    :raises ProvisionError: the profile lacks the login settings to replace.
    """
    text = profile_text(profile)
    if text.count(_LOGIN) != 1:
        raise ProvisionError(f"the broker's profile {profile} has no login that certificates could replace")
    head, _, rest = text.partition(_LOGIN)
    title = head.splitlines()[0]
    example, _, rest = rest.partition("# Where ")  # the profile's example of TLS
    del example
    login = _MUTUAL_TLS.format(port=port, folder=folder, authority=AUTHORITY, broker=BROKER, access=ACCESS)
    return f"{title}\n# With certificates; made by `edgeslm provision broker`.\n\n{login}\n# Where {rest}"
