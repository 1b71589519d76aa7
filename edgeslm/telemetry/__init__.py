"""Health, metrics, traces, alerts, audit, drift, Home Assistant discovery."""
