"""MQTT connection: client, network thread, outbox, publisher, presence."""
