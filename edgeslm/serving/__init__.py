"""The bus-free core: scheduler, quotas, model pool, deployment, cascade, escalation, warm-up."""
