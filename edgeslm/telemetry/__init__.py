"""Telemetry: health, metrics, traces, alerts, audit log, drift, Home Assistant discovery."""
