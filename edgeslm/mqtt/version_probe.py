"""MQTT version probe: distinguishes a broker without MQTT 5 from a broker that didn't answer for another
reason.

Some old brokers don't answer an MQTT 5 CONNECT. A broker with MQTT 5 that is killed, frozen or disconnected
from the network during the CONNECT doesn't answer either. With a broker that has MQTT 5, a fallback to MQTT
3.1.1 would lose Response Topic and Correlation Data, and the node would send the results of queued requests
to the wrong topics.
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
"""Seconds to wait for the answer to a CONNECT. The timeout is short, since the broker has just answered an
MQTT 3.1.1 CONNECT when the MQTT 5 CONNECT is sent."""


def is_old_broker(address: BrokerAddress, *, ask_s: float = ASK_S) -> bool:
    """Whether the broker answers an MQTT 3.1.1 CONNECT, but not an MQTT 5 CONNECT right after it.

    The probe uses random client ids, leaves no session, and takes a few seconds plus the time to connect.

    :param ask_s: timeout of an answer in seconds.
    """
    return _answers(address, MQTTProtocolVersion.MQTTv311, ask_s) and not _answers(
        address, MQTTProtocolVersion.MQTTv5, ask_s
    )


def _answers(address: BrokerAddress, protocol: MQTTProtocolVersion, ask_s: float) -> bool:
    """Whether the broker answers a CONNECT with this protocol version; a refusal counts as an answer."""
    answers: list[Any] = []
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=f"edgeslm-asks-{secrets.token_hex(4)}",
        protocol=protocol,
        reconnect_on_failure=False,
    )
    client.connect_timeout = ask_s
    client.on_connect = lambda client, userdata, flags, reason, granted: answers.append(reason)
    if address.login.username is not None:
        client.username_pw_set(address.login.username, address.login.password)
    try:
        context = address.tls_context()
        if context is not None:
            client.tls_set_context(context)
        client.connect(address.host, address.port)
        give_up_at = time.monotonic() + ask_s
        while not answers and time.monotonic() < give_up_at:
            if client.loop(timeout=0.2) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
        client.disconnect()
    except (OSError, BrokerError):
        pass
    finally:
        sock = client.socket()
        if sock is not None:  # refused
            sock.close()
    return bool(answers)
