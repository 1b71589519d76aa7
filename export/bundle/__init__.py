"""Bundles as files: writing, signing, adding document collections."""
