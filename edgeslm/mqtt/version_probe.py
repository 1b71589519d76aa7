"""MQTT version probe, for a broker that took a connection and gave no answer to MQTT 5.

Some old brokers do that. So does every broker that is killed, frozen or cut off at that moment, and a node
that took one of these for an old one would come back without Response Topic and Correlation Data: the
requests of its own session would be answered where nobody listens. So silence alone says nothing.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from edgeslm.errors import BrokerError
from edgeslm.mqtt.broker_address import BrokerAddress

ASK_S = 3.0
"""How long an answer may take: a broker is asked for MQTT 5 when it has just answered MQTT 3.1.1."""


def is_old_broker(address: BrokerAddress) -> bool:
    """Whether the broker answers MQTT 3.1.1 and, right after that, still not MQTT 5.

    Asks under names of its own and leaves no session behind. Blocks for a few seconds at most, and longer
    where connecting does.
    """
    return _answers(address, MQTTProtocolVersion.MQTTv311) and not _answers(
        address, MQTTProtocolVersion.MQTTv5
    )


def _answers(address: BrokerAddress, protocol: MQTTProtocolVersion) -> bool:
    """Whether anything is answered, a refusal too."""
    answers: list[Any] = []
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"edgeslm-asks-{secrets.token_hex(4)}",
        protocol=protocol,
        reconnect_on_failure=False,
    )
    client.connect_timeout = ASK_S
    client.on_connect = lambda client, userdata, flags, reason, granted: answers.append(reason)
    if address.login.username is not None:
        client.username_pw_set(address.login.username, address.login.password)
    try:
        context = address.tls_context()
        if context is not None:
            client.tls_set_context(context)
        client.connect(address.host, address.port)
        give_up_at = time.monotonic() + ASK_S
        while not answers and time.monotonic() < give_up_at:
            if client.loop(timeout=0.2) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
        client.disconnect()
    except (OSError, BrokerError):
        pass
    finally:
        sock = client.socket()
        if sock is not None:  # not let in
            sock.close()
    return bool(answers)
