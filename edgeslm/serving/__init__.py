"""Request processing without MQTT: scheduler, quotas, model pool, deployment, cascade, escalation,
warm-up."""
