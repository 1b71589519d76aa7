"""Model updates of a running node: download, test, switch, canary trial, automatic rollback."""
