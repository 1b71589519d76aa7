"""The broker connection: client, network thread, outbox, publisher, presence."""
