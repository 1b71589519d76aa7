"""Request processing without a bus: scheduler, quotas, model pool, deployment, cascade, escalation,
warm-up."""
